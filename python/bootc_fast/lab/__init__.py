"""A whole bootc host in a directory, to try things out on and to test with."""
