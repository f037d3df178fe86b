"""How many workers a rate of events needs: a simulation of engines, workers and SQS, fed by measured costs."""
