"""The only way from bytes and strangers' strings to what people read: names, errors, digests, numbers, JSON.

Used by the command line, the journal and the outcome record alike. Escaping twice is escaping once, so that whoever
writes a line may escape it whatever its parts went through.
"""

from __future__ import annotations

from bootc_fast.errors import BootcFastError, FileSystemError

UNEXPECTED = 1

SHORT_DIGEST_CHARS = 16
_ALGORITHM = "sha256:"


def flatten(error: BaseException) -> list[BaseException]:
    """Return the single errors of a group, in order; the error itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in flatten(child)]
    return [error]


def exit_code_of(error: BaseException) -> int:
    """Return the exit code (spec commands.md, "Exit codes"): of a group, the highest of its errors."""
    return max(_code(leaf) for leaf in flatten(error))


def _code(error: BaseException) -> int:
    if isinstance(error, BootcFastError):
        return error.exit_code
    return FileSystemError.exit_code if isinstance(error, OSError) else UNEXPECTED


def describe_error(error: BaseException) -> str:
    """One line for one error, without its causes; safe for a terminal."""
    if isinstance(error, OSError) and error.strerror:
        # A call on a descriptor, as os.listdir(fd), leaves its number for a name: that tells nobody anything.
        where = "" if error.filename is None or isinstance(error.filename, int) else f"{_name(error.filename)}: "
        return escape(f"{where}{error.strerror}")
    text = str(error)
    if isinstance(error, BootcFastError):
        return escape(text or type(error).__name__)
    return escape(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _name(filename: object) -> str:
    return filename.decode(errors="surrogateescape") if isinstance(filename, bytes) else str(filename)


def error_chain(error: BaseException) -> list[str]:
    """Describe what an error was raised from, nearest first, without repeating what was said already."""
    said = [describe_error(error)]
    seen = {id(error)}
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        text = describe_error(cause)
        # Messages often end with their cause's text already: "reading X: No space left on device".
        if not any(text in earlier for earlier in said):
            said.append(text)
        cause = cause.__cause__
    return said[1:]


def escape(text: str) -> str:
    r"""Escape what a terminal must not get: control characters, line ends, and bytes that are not UTF-8.

    A name in an error may come from an image that nobody has vetted yet. Bytes appear as ``\xff``.
    """
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def escape_bytes(name: bytes) -> str:
    """A bytes name for people."""
    return escape(name.decode("utf-8", errors="surrogateescape"))


def escape_lines(text: bytes | str) -> list[str]:
    """Several lines of another program's, each for people; ends at line feeds only, and blank ones are dropped."""
    known = text if isinstance(text, str) else text.decode("utf-8", errors="surrogateescape")
    return [escape(line.strip()) for line in known.split("\n") if line.strip()]


def shorten_digest(digest: str, chars: int = SHORT_DIGEST_CHARS) -> str:
    """The begin of a digest, of an image or an ostree commit, enough to know it by.

    A ``sha256:`` before it is no part of what is counted.
    """
    known = _ALGORITHM if digest.startswith(_ALGORITHM) else ""
    length = len(known) + chars
    return escape(digest if len(digest) <= length else f"{digest[:length]}…")


def count(number: int, noun: str) -> str:
    """``1 change``, ``2 changes``: every word of the noun's plural that has an ``s`` loses it for one."""
    return f"{number} {noun if number != 1 else ' '.join(word.removesuffix('s') for word in noun.split())}"


def dump_json(value: object, *, indent: int | None = 2) -> str:
    r"""A value as JSON: the very data, and nothing that a terminal acts on.

    What `escape` would escape stands as ``\uXXXX``, which every reader of JSON takes for the character itself; so
    does half a surrogate pair, which no UTF-8 can hold.
    """
    import json

    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def encode_bytes(name: bytes) -> str | dict[str, str]:
    """A bytes name for JSON: text where it is UTF-8, else ``{"base64": …}`` (spec etc-merge.md, "Report")."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(name).decode("ascii")}


def _escape_char(char: str) -> str:
    code = ord(char)
    first, last = 0xDC80, 0xDCFF  # where "surrogateescape" puts bytes
    if first <= code <= last:
        return f"\\x{code - first + 0x80:02x}"
    return char.encode("unicode_escape").decode("ascii")
