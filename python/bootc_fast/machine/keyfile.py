"""Files of groups, keys and values, as GLib's key files are: origins, ``prepare-root.conf``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import configparser


class KeyFileError(ValueError):
    """What was to be a key file is none."""


def parse_key_file(text: str) -> configparser.RawConfigParser:
    """Parse a key file; of several values for one key the last counts.

    Args:
        text: Comments begin with ``#`` and stand on their own line; nothing is expanded.

    Raises:
        KeyFileError: A line is nothing of all that, or no group is above it.

    Source:
        Desktop Entry Specification, "Basic format of the file"; GLib ``gkeyfile.c``, which skips white space before a
        line.
    """
    # Most commands read no such file, and this one is large.
    import configparser

    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    # A line is a line there; this reader would take an indented one for more of the line before.
    try:
        parser.read_string("\n".join(line.strip() for line in text.split("\n")))
    except configparser.Error as error:
        raise KeyFileError(str(error)) from error
    return parser
