"""One verb a file, read from top to bottom like the specification."""
