"""The metrics consumer of the original README, with its operator."""
