"""Counting the boots of a deployment that is on trial: decided, begun, read, ended."""
