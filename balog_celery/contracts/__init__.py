"""The contract of an application: the events that it sends and receives, and their content."""
