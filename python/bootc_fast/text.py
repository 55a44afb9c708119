"""The only way from bytes and strangers' strings to what people read: names, errors, digests, numbers, JSON.

Used by the command line, the journal and the outcome record alike. Escaping twice is escaping once, so that whoever
writes a line may escape it whatever its parts went through.
"""

from __future__ import annotations

import errno
import os

from bootc_fast.errors import BootcFastError, FileSystemError, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

UNEXPECTED = 1

SHORT_DIGEST_CHARS = 16
_ALGORITHM = "sha256:"
_DIGEST_LENGTHS = (128, 64)
_EXTRAS = frozenset({"xattr", "yaml"})
"""Libraries that no update needs: docs/dependencies.md."""
_EXTRA_MODULES = ("bootc_fast.lab", "bootc_fast.cli.lab_")
_HINTS = {
    errno.ENOSPC: "make space on that file system",
    errno.EDQUOT: "make space on that file system",
    errno.EROFS: "that file system is read-only; the kernel makes a damaged one so: look at its log (`journalctl -k`)",
    errno.EIO: "the disk fails, or its file system is damaged: look at the kernel's log (`journalctl -k`)",
}
"""For errors without a hint of their own."""


def flatten(error: BaseException) -> list[BaseException]:
    """Return the single errors of a group, in order; the error itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in flatten(child)]
    return [error]


def exit_code_of(error: BaseException) -> int:
    """Return the exit code (spec commands.md, "Exit codes"): of a group, the highest of its errors."""
    return code_of(error)


def reason_of(error: OSError) -> str:
    """Why a system call failed, in words, without the file's name; never empty, and never ``None``.

    An OSError that was raised with a text alone has no ``strerror``, one made of a number by hand has no text.
    """
    if error.strerror:
        return escape(str(error.strerror))
    if error.errno:
        return os.strerror(error.errno)
    return escape(str(error)) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """One line for one error, without its causes, or for all of a group; safe for a terminal."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(describe_error, flatten(error)))
    if isinstance(error, OSError):
        # A call on a descriptor, as os.listdir(fd), leaves its number for a name: that tells nobody anything.
        where = "" if not error.filename or isinstance(error.filename, int) else f"{_name(error.filename)}: "
        return escape(where) + reason_of(error)
    if isinstance(error, ImportError):
        return escape(f"loading the library {error.name or 'that is needed'}: {error.msg}")
    text = str(error)
    if isinstance(error, BootcFastError):
        return escape(text or type(error).__name__)
    return escape(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def hint_of(error: BaseException) -> str | None:
    """What the reader can do about an error: its own hint, else what its system call's number says."""
    if isinstance(error, BootcFastError) and error.hint is not None:
        return error.hint
    if isinstance(error, ImportError):
        if (error.name or "").partition(".")[0] in _EXTRAS or (error.name or "").startswith(_EXTRA_MODULES):
            return "this is in the package bootc-fast-extras; from a package index: pip install 'bootc-fast[extras]'"
        return "the installation is not complete: install bootc-fast again, with all that it needs"
    return "run it as root" if _is_denied(error) else _HINTS.get(_errno_of(error) or 0)


def _errno_of(error: BaseException | None) -> int | None:
    """The number of the system call's failure that it comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None


def _is_denied(error: BaseException | None) -> bool:
    """Whether it comes from a permission that only root has."""
    while error is not None:
        if isinstance(error, PermissionError):
            return os.geteuid() != 0
        error = error.__cause__
    return False


def explain_failure(what: str, error: BaseException) -> BaseException:
    """Say of a system call's failure what was being done, also within a group; other errors say so themselves.

    Args:
        what: What was being done, e.g. ``"reading boot entries"``.
        error: What was raised.

    Returns:
        A FileSystemError with the OSError as its cause, a group with these in it, or the error itself.
    """
    if isinstance(error, BaseExceptionGroup):
        leaves = flatten(error)
        explained = [explain_failure(what, leaf) for leaf in leaves]
        return error if explained == leaves else BaseExceptionGroup(error.message, explained)
    # A time limit's TimeoutError is an OSError too, one without a number.
    if not isinstance(error, OSError) or (isinstance(error, TimeoutError) and error.errno is None):
        return error
    made = FileSystemError(f"{what}: {describe_error(error)}")
    made.__cause__ = error
    return made


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
        # Also where it stands there without the name of its class.
        bare = escape(str(cause)) or text
        if not any(text in earlier or bare in earlier for earlier in said):
            said.append(text)
        cause = cause.__cause__
    return said[1:]


def escape(text: str) -> str:
    r"""Escape what a terminal must not get: control characters, line ends, and bytes that are not UTF-8.

    A name in an error may come from an image that nobody has vetted yet. Bytes appear as ``\xff``.
    """
    if text.isprintable():
        return text
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


def shorten_digests(text: str) -> str:
    """Shorten every whole digest in a text, which are most of it: paths and names hold them once or twice.

    In a path ``*`` stands for the rest, which a shell finds again: what is shown can be pasted. A path between quotes,
    where a shell looks for nothing, stays whole.
    """
    if len(text) < min(_DIGEST_LENGTHS):
        # A report has a line for each change in /etc, most of them shorter than any digest.
        return text
    # Here: whoever prints nothing starts without.
    import re

    lengths = "|".join(f"[0-9a-f]{{{length}}}" for length in _DIGEST_LENGTHS)
    digest = rf"(?<![0-9a-f])(?:{lengths})(?![0-9a-f])"
    begin = r"(?<![^\s(=`])"

    def shorten(found: re.Match[str]) -> str:
        if found["quoted"]:
            return found["quoted"]
        if found["path"]:
            return re.sub(digest, lambda one: f"{one[0][:SHORT_DIGEST_CHARS]}*", found["path"])
        return shorten_digest(found[0])

    return re.sub(
        rf"""{begin}(?P<quoted>(?P<mark>['"])/.*?(?P=mark))|{begin}(?P<path>/[^\s'"`]*)|{digest}""", shorten, text
    )


def count(number: int, noun: str) -> str:
    """``1 change``, ``2 changes``: every word of the noun's plural that has an ``s`` loses it for one."""
    return f"{number} {noun if number != 1 else ' '.join(word.removesuffix('s') for word in noun.split())}"


def suggest(word: str, known: Iterable[str]) -> str | None:
    """The one of the known words that was probably meant; None where none is like it."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'rollback'?``, or nothing."""
    found = suggest(word, known)
    return f"did you mean {escape(found)!r}?" if found else ""


def make_stream_lenient(stream: object) -> None:
    r"""Let a stream in ASCII or Latin-1 get ``\xe9`` for what it has no character for, not end the program.

    Args:
        stream: Standard output or error; whatever else stands there, as in tests, stays as it is.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def dump_json(value: object, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    r"""A value as JSON: the very data, and nothing that a terminal acts on.

    What `escape` would escape stands as ``\uXXXX``, which every reader of JSON takes for the character itself; so
    does half a surrogate pair, which no UTF-8 can hold; and with `ascii_only` all that is not ASCII.
    """
    import json

    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
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
