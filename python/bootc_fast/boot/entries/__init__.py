"""The set of boot entries: read, planned, published, cleared of garbage."""
