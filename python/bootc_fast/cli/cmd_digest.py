"""``bootc-fast digest``: fs-verity digests of files."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from bootc_fast import _core
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_json, write_stdout
from bootc_fast.errors import UsageError
from bootc_fast.events import run_step
from bootc_fast.machine.files import open_regular
from bootc_fast.text import encode_bytes, escape_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

# Smaller files are read whole and hashed together with others; a larger one fills the lanes by itself.
SMALL_FILE_BYTES = 1 << 18
# What is held in memory before it is hashed.
BATCH_FILES = 1024
BATCH_BYTES = 16 << 20

EPILOG = """\
example:
  bootc-fast digest /usr/bin/*
  bootc-fast digest --algorithm sha256 --compact rootfs.img

Prints what 'fsverity digest' prints for the same algorithm, block size and salt; the default
algorithm is bootc's, SHA-512, not SHA-256 as there.
"""


class _Options(NamedTuple):
    algorithm: str
    block_bytes: int
    salt: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--algorithm", choices=["sha256", "sha512"], default="sha512", help="default: sha512")
    parser.add_argument(
        "--block-size",
        metavar="BYTES",
        type=int,
        default=4096,
        help="a power of two, 1024 to 65536; default: 4096",
    )
    parser.add_argument("--salt", metavar="HEX", default="", help="a salt of up to 32 bytes")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--compact", action="store_true", help="print nothing but the digests")
    shape.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("files", metavar="FILE", nargs="+", help="regular files, or pipes")


def run(arguments: argparse.Namespace) -> int:
    """Print every file's digest, in the order given; the first one that fails ends the run."""
    options = _check_options(arguments)
    with (
        show_progress(arguments) as on_event,
        run_step(on_event, "digest", "Computing digests", unit="bytes") as tell,
    ):
        paths = [os.fsencode(name) for name in arguments.files]
        found = _digest_files(paths, options, _Meter(paths, tell))
        if arguments.json:
            rows = list(found)
        else:
            _print_digests(found, arguments, options)
    if arguments.json:
        print_json([{"path": encode_bytes(path), "algorithm": options.algorithm, "digest": one} for path, one in rows])
    return 0


def _print_digests(found: Iterator[tuple[bytes, str]], arguments: argparse.Namespace, options: _Options) -> None:
    is_terminal = sys.stdout.isatty()
    for path, digest in found:
        # Names as they are, as fsverity prints them: the output is read by programs; a terminal is read by people.
        name = escape_bytes(path).encode() if is_terminal else path
        line = digest.encode() if arguments.compact else f"{options.algorithm}:{digest} ".encode() + name
        if not write_stdout(line + b"\n"):
            break


class _Meter:
    """How many bytes of all files are hashed.

    Args:
        paths: All of them; what cannot be looked at counts as empty, and fails when its turn comes.
        tell: Told done and total.
    """

    def __init__(self, paths: Sequence[bytes], tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._done = 0
        self._total = sum(map(_size_of, paths))

    def tell(self, done: int, _total: int) -> None:
        """Take what the core says of one file."""
        self._tell(self._done + done, self._total)

    def add(self, size_bytes: int) -> None:
        """A file is done."""
        self._done += size_bytes
        self._tell(self._done, self._total)


def _size_of(path: bytes) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _check_options(arguments: argparse.Namespace) -> _Options:
    try:
        options = _Options(arguments.algorithm, arguments.block_size, bytes.fromhex(arguments.salt))
        _core.digest_many([], algorithm=options.algorithm, block_bytes=options.block_bytes, salt=options.salt)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"computing digests: {error}") from error
    return options


def _digest_files(paths: Sequence[bytes], options: _Options, meter: _Meter) -> Iterator[tuple[bytes, str]]:
    """Yield paths with their digests; small files are gathered, so a result may come some files later."""
    names: list[bytes] = []
    contents: list[bytes] = []
    size_bytes = 0
    for path in paths:
        descriptor = open_regular(path, or_pipe=True)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > SMALL_FILE_BYTES:
                yield from _digest_batch(names, contents, options)
                names, contents, size_bytes = [], [], 0
                yield path, _digest_descriptor(descriptor, path, options, meter)
                meter.add(status.st_size)
                continue
            content = _read_all(descriptor, status.st_size)
            meter.add(status.st_size)
        finally:
            os.close(descriptor)
        names.append(path)
        contents.append(content)
        size_bytes += len(content)
        if len(names) == BATCH_FILES or size_bytes > BATCH_BYTES:
            yield from _digest_batch(names, contents, options)
            names, contents, size_bytes = [], [], 0
    yield from _digest_batch(names, contents, options)


def _read_all(descriptor: int, expected_bytes: int) -> bytes:
    """Read to the end; one byte more than expected is asked for, so that one call is enough as a rule."""
    parts = [os.read(descriptor, expected_bytes + 1)]
    # A file that grew meanwhile, or one of procfs, which say they are empty.
    while len(parts[-1]) not in (0, expected_bytes):
        parts.append(os.read(descriptor, SMALL_FILE_BYTES))
    return b"".join(parts)


def _digest_descriptor(descriptor: int, path: bytes, options: _Options, meter: _Meter) -> str:
    try:
        return _core.digest_fd(
            descriptor,
            algorithm=options.algorithm,
            block_bytes=options.block_bytes,
            salt=options.salt,
            progress=meter.tell,
            check=_let_signals_in,
        )
    except OSError as error:
        error.filename = path
        raise


def _digest_batch(names: list[bytes], contents: list[bytes], options: _Options) -> Iterator[tuple[bytes, str]]:
    digests = _core.digest_many(
        contents,
        algorithm=options.algorithm,
        block_bytes=options.block_bytes,
        salt=options.salt,
        check=_let_signals_in,
    )
    return zip(names, digests, strict=True)


def _let_signals_in() -> None:
    """Polled by the core: calling any Python function lets a pending signal's handler run."""
