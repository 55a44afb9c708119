"""The command line: arguments to dataclass to call to text. The only code that prints or exits."""


def main() -> int:
    """Run the command line and return its exit code."""
    return 0
