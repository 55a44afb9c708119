"""``bootc-fast image``: list, dump, read and verify EROFS images without mounting them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error
from bootc_fast.cli.parser import add_global_options
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import drop_stream, make_json, print_json, print_lines, write_stdout
from bootc_fast.errors import BootcFastError
from bootc_fast.events import ignore_event, run_step
from bootc_fast.records import asdict
from bootc_fast.text import encode_bytes, escape_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from bootc_fast._core import TreeEntry
    from bootc_fast.composefs.images import ImageFacts
    from bootc_fast.events import EventSink

_TELL_EVERY = 1000

EPILOG = """\
examples:
  bootc-fast image ls -R IMAGE etc
  bootc-fast image dump IMAGE > image.dump
  bootc-fast image cat IMAGE etc/os-release
  bootc-fast image verify /sysroot/composefs/images/*

IMAGE is a composefs image or any uncompressed EROFS image; of the former, ls shows what the mounted overlay
shows, and dump prints what 'composefs-info dump' prints. Contents that composefs keeps as objects are looked
for in the repository that IMAGE lies in, or in --objects.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="image_command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, run_it: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=EPILOG,
        )  # fmt: skip
        child.set_defaults(run_image=run_it)
        add_global_options(child, default=argparse.SUPPRESS)
        return child

    ls = add("ls", "list a directory of an image", _run_ls)
    ls.add_argument("image", metavar="IMAGE", type=Path, help="the image")
    ls.add_argument("path", metavar="PATH", nargs="?", default="", help="default: the root directory")
    ls.add_argument("-R", "--recursive", action="store_true", help="and everything below it")
    ls.add_argument("--json", action="store_true", help="print JSON, with all attributes")
    dump = add("dump", "print composefs images in the composefs dump format", _run_dump)
    dump.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="the images")
    cat = add("cat", "print the content of files of an image", _run_cat)
    cat.add_argument("image", metavar="IMAGE", type=Path, help="the image")
    cat.add_argument("paths", metavar="PATH", nargs="+", help="files of the image")
    cat.add_argument("--objects", metavar="DIR", type=Path, help="objects directory of the composefs repository")
    verify = add("verify", "compare images with their digests, and read all that is in them", _run_verify)
    verify.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="the images")
    verify.add_argument("--objects", metavar="DIR", type=Path, help="verify the objects that they need, too")
    verify.add_argument(
        "--digest",
        metavar="HEX",
        type=_parse_digest,
        help="the digest to expect; default: the file's name, if it is one",
    )
    verify.add_argument("--json", action="store_true", help="print JSON")


def _parse_digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}(?:[0-9a-f]{64})?", text):
        raise argparse.ArgumentTypeError("a digest has 64 or 128 lower-case hexadecimal digits")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-command."""
    code: int = arguments.run_image(arguments)
    return code


def _run_ls(arguments: argparse.Namespace) -> int:
    from bootc_fast.composefs.images import open_image

    path = os.fsencode(arguments.path).strip(b"/")
    with (
        _show_progress(arguments) as on_event,
        open_image(arguments.image) as image,
        run_step(on_event, "list", "Listing the image") as tell,
    ):
        entries = _count(image.walk(path, recursive=arguments.recursive), image.inode_count, tell)
        if arguments.json:
            _print_json_list(entries, path, arguments)
        else:
            _print_list(entries, path)
    return 0


def _count(entries: Iterable[TreeEntry], total: int, tell: Callable[[int, int], None]) -> Iterator[TreeEntry]:
    """Pass entries on, and tell of every few."""
    for number, entry in enumerate(entries, 1):
        if number % _TELL_EVERY == 0:
            tell(number, max(total, number))
        yield entry


def _full_path(start: bytes, entry: TreeEntry) -> bytes:
    return b"/" + b"/".join(part for part in (start, entry.path) if part)


def _print_list(entries: Iterable[TreeEntry], start: bytes) -> None:
    """One line an entry; of a directory, what is in it, of anything else, itself."""
    import stat

    for entry in entries:
        if not entry.path and stat.S_ISDIR(entry.mode):
            continue
        if not print_lines([_describe(entry, _full_path(start, entry))], is_data=True):
            return


def _describe(entry: TreeEntry, path: bytes) -> str:
    import stat
    from datetime import UTC, datetime, timedelta

    size = f"{os.major(entry.rdev)},{os.minor(entry.rdev)}" if entry.rdev else str(entry.size_bytes)
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=entry.mtime_ns // 1_000_000_000)
        time = when.strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        time = f"@{entry.mtime_ns // 1_000_000_000}"
    target = f" -> {escape_bytes(entry.target)}" if entry.target is not None else ""
    mark = "+" if entry.xattrs else " "
    owner = f"{entry.uid}:{entry.gid}"
    return (
        f"{stat.filemode(entry.mode)}{mark} {entry.nlink:>3} {owner:>11} {size:>12} {time} {escape_bytes(path)}{target}"
    )


def _print_json_list(entries: Iterable[TreeEntry], start: bytes, arguments: argparse.Namespace) -> None:
    """A JSON array, written entry by entry: a million of them do not have to be in memory.

    Where the image turns out broken meanwhile, the failure is the array's last member.
    """
    separator = "[\n"
    try:
        for entry in entries:
            text = make_json(_to_json(entry, _full_path(start, entry)), indent=None)
            if not write_stdout(separator + text):
                return
            separator = ",\n"
    except (BootcFastError, OSError) as error:
        if separator == "[\n":
            raise
        write_stdout(separator + make_json(encode_error(error), indent=None) + "\n]\n")
        arguments.has_told_json = True
        raise
    write_stdout(f"{separator if separator.startswith('[') else ''}\n]\n")


def _to_json(entry: TreeEntry, path: bytes) -> dict[str, object]:
    from base64 import b64encode

    from bootc_fast.composefs.images import describe_kind

    return {
        "path": encode_bytes(path),
        "type": describe_kind(entry),
        "mode": f"{entry.mode & 0o7777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "nlink": entry.nlink,
        "rdev": entry.rdev,
        "size_bytes": entry.size_bytes,
        "mtime_ns": entry.mtime_ns,
        "xattrs": [
            {"name": encode_bytes(name), "value_base64": b64encode(value).decode("ascii")}
            for name, value in entry.xattrs.items()
        ],
        "target": None if entry.target is None else encode_bytes(entry.target),
        "object": entry.digest,
    }


def _go_on() -> None:
    """Let Python run the handlers of signals that came while the core was working."""


def _run_dump(arguments: argparse.Namespace) -> int:
    from bootc_fast.composefs.images import open_image

    sys.stdout.flush()
    with _show_progress(arguments) as on_event, _until_reader_goes():
        for path in arguments.images:
            with open_image(path) as image, run_step(on_event, "dump", "Dumping the image") as tell:
                image.dump(sys.stdout.fileno(), progress=tell, check=_go_on)
    return 0


@contextmanager
def _show_progress(arguments: argparse.Namespace) -> Generator[EventSink]:
    """A bar, unless what is printed goes to a terminal, and shows itself how far it is."""
    if sys.stdout.isatty():
        yield ignore_event
        return
    with show_progress(arguments) as on_event:
        yield on_event


@contextmanager
def _until_reader_goes() -> Generator[None]:
    """End the block, and well, where whoever reads our output has gone away."""
    try:
        yield
    except BrokenPipeError:
        drop_stream(sys.stdout)


def _run_cat(arguments: argparse.Namespace) -> int:
    from bootc_fast.composefs.images import find_objects, open_image, write_file

    objects = arguments.objects or find_objects(arguments.image)
    sys.stdout.flush()
    with _until_reader_goes(), open_image(arguments.image) as image:
        for path in arguments.paths:
            write_file(image, os.fsencode(path), sys.stdout.fileno(), objects=objects, check=_go_on)
    return 0


def _run_verify(arguments: argparse.Namespace) -> int:
    from bootc_fast.composefs.images import verify_image

    verified = []
    for path in arguments.images:
        with show_progress(arguments) as on_event:
            facts = verify_image(
                path, expected=arguments.digest, objects=arguments.objects, check=_go_on, on_event=on_event
            )
        verified.append({"path": encode_bytes(os.fsencode(path)), **asdict(facts)})
        if not arguments.json:
            print_lines([f"{escape_bytes(os.fsencode(path))}: {_summarise(facts)}"])
    if arguments.json:
        print_json(verified)
    return 0


def _summarise(facts: ImageFacts) -> str:
    kind = "EROFS" if facts.composefs_version is None else f"composefs V{facts.composefs_version}"
    digest = "digest as expected" if facts.is_expected else f"digest {facts.digest}"
    sealed = ", fs-verity" if facts.is_sealed else ""
    checked = "verified" if facts.objects_verified else "not looked at"
    objects = f", {facts.objects} objects of {facts.object_bytes} bytes ({checked})" if facts.objects else ""
    return f"{kind}, {facts.entries} entries{objects}, {digest}{sealed}"
