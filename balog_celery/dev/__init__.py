"""The local stack for development: a broker and an SQS that start and stop with the worker.

Production does not use it. To an event it is a queue and a broker like any other.
"""
