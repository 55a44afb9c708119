"""Boot entries: reading them, the loaders' order, and replacing the set."""
