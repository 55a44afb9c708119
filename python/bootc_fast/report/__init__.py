"""What is left behind and shown: outcomes, statuses."""
