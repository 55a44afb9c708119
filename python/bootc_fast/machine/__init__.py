"""How a host is reached, whatever runs on it."""
