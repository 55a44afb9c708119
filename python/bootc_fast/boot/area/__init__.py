"""The boot partition: found, opened, and written so that power may fail."""
