"""``self-test``: whether the image's Python serves, finds every library, and need not compile them at each start.

Source:
    Spec packaging.md; PEP 552 for the head of byte code; PEP 3147 and 3149 for names that carry a version.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from typing import TYPE_CHECKING

import bootc_fast
from bootc_fast.text import describe_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bootc_fast.machine.host import Host

OLDEST = (3, 11)
LIBRARY = "usr/lib/bootc-fast"
NEEDED = (
    "anyio", "anyio.abc", "anyio.from_thread", "anyio.lowlevel", "anyio.streams.memory", "anyio.streams.tls",
    "anyio.to_thread",
    "anyio._backends._trio", "trio",
    "cryptography.exceptions", "cryptography.hazmat.primitives", "cryptography.hazmat.primitives.asymmetric",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.serialization",
)  # fmt: skip
"""Every module of somebody else that any command imports, but for extras; a test compares it with the source."""

EXTRAS = frozenset({"gi", "xattr", "yaml"})
_BACKEND = "_cffi_backend"
"""What cryptography loads from its compiled part, where no ``import`` shows."""
_COMPILE = "python3 -m compileall -q -f --invalidation-mode unchecked-hash"
_MANY = 5
# A magic number, and the flags of PEP 552.
_HEAD_BYTES = 8


def check_versions(host: Host) -> Iterator[tuple[str, str, str | None]]:
    """The image's Python: new enough, and the one that what is compiled was made for."""
    version = find_python(host)
    if version is None:
        yield "failed", "/usr/bin/python3 is not there, or does not say its version", "install python3"
        return
    shown = "{}.{}".format(*version)
    if version < OLDEST:
        yield "failed", f"Python {shown}: 3.11 or newer is needed", "build the image on a newer release"
        return
    launcher = host.root / "usr/bin/bootc-fast"
    built_for = b""
    if host.find_status(launcher) is not None:
        said = re.search(rb'^BUILT_FOR = "([\d.]*)"$', host.read_bytes(launcher), re.MULTILINE)
        built_for = said[1] if said else b""
    if built_for and built_for.decode() != shown:
        hint = f"build or install bootc-fast for Python {shown}"
        yield "failed", f"Python {shown}, and bootc-fast was installed for {built_for.decode()}", hint
    else:
        yield "ok", f"Python {shown}", None


def find_python(host: Host) -> tuple[int, int] | None:
    """The version of the image's ``/usr/bin/python3``: what its link names; of a live host, the one that runs this."""
    try:
        name = os.path.basename(os.readlink(host.root / "usr/bin/python3"))
    except OSError:
        name = ""
    said = re.fullmatch(r"python(\d+)\.(\d+)", name)
    if said:
        return int(said[1]), int(said[2])
    return sys.version_info[:2] if host.is_live else None


def check_imports(host: Host) -> Iterator[tuple[str, str, str | None]]:
    """Everything that any command may import; under a root, whether it is there, and for this Python."""
    if not host.is_live:
        yield from _look_for_libraries(host)
        return
    names = [name for name in _list_own() if not name.endswith("__main__")]
    failed = 0
    for name in (*NEEDED, *names):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if (error.name or "").partition(".")[0] in EXTRAS:
                continue
            failed += 1
            yield "failed", f"importing {name}: {describe_error(error)}", "install what the package depends on"
    if not failed:
        yield "ok", f"{len(names)} modules and {len(NEEDED)} of libraries are imported", None


def _list_own() -> Iterator[str]:
    for found in pkgutil.walk_packages(bootc_fast.__path__, "bootc_fast."):
        yield found.name


def _places(host: Host) -> list[Path]:
    """Where the launcher looks, in its order."""
    version = find_python(host) or OLDEST
    python = "python{}.{}".format(*version)
    distribution = (
        "usr/lib/python3/dist-packages",
        f"usr/lib64/{python}/site-packages",
        f"usr/lib/{python}/site-packages",
    )
    return [host.root / place for place in (LIBRARY, *distribution)]


def _look_for_libraries(host: Host) -> Iterator[tuple[str, str, str | None]]:
    version = find_python(host)
    if version is None or version < OLDEST:
        return  # which the check before has said
    mine = "cpython-{}{}-".format(*version)
    wanted = dict.fromkeys(["bootc_fast", "bootc_fast/_core", _BACKEND, *(name.partition(".")[0] for name in NEEDED)])
    missing = []
    for name in wanted:
        directory, _, leaf = name.rpartition("/")
        names = [one for place in _places(host) for one in map(os.fsdecode, host.list_directory(place / directory))]
        candidates = [one for one in names if one == leaf or one.partition(".")[0] == leaf]
        usable = [one for one in candidates if "cpython-" not in one or mine in one]
        if not usable:
            missing.append(name)
            why = f"is there for another Python alone: {candidates[0]}" if candidates else "is not there"
            yield "failed", f"{name} {why}", "install what the package depends on"
    if not missing:
        yield "ok", f"{len(wanted)} libraries are there (run in the image, self-test imports them)", None


def check_byte_code(host: Host) -> Iterator[tuple[str, str, str | None]]:
    """Byte code that fits whatever time composefs or ostree give its source; else every start compiles anew."""
    version = find_python(host)
    if version is None or version < OLDEST:
        return
    tag = "cpython-{}{}".format(*version)
    places = _places(host)
    own = _list_unfit(host, places[0], tag)
    if host.find_status(places[0]) is None:
        yield "failed", f"/{LIBRARY} is not there", "install the package bootc-fast again"
    elif own:
        many = f" and {len(own) - _MANY} more" if len(own) > _MANY else ""
        message = f"byte code that does not fit on a read-only /usr: {', '.join(own[:_MANY])}{many}"
        yield "failed", message, f"{_COMPILE} /{LIBRARY}"
    else:
        yield "ok", f"byte code of /{LIBRARY} fits", None
    names = sorted({name.partition(".")[0] for name in NEEDED})
    others = [place / name for place in places[1:] for name in names if host.find_status(place / name) is not None]
    standard = [
        host.root / directory / "python{}.{}".format(*version)
        for directory in ("usr/lib", "usr/lib64")
        if host.find_status(host.root / directory / "python{}.{}/enum.py".format(*version)) is not None
    ]
    slow = [place for place in (*others, *standard) if _list_unfit(host, place, tag, deep=place not in standard)]
    for place in slow:
        where = f"/{place.relative_to(host.root)}"
        yield "warning", f"{where} is compiled anew at every start on composefs and ostree", f"{_COMPILE} {where}"


def _list_unfit(host: Host, top: Path, tag: str, *, deep: bool = True) -> list[str]:
    """Modules below a directory whose byte code is missing or looks at its source's time."""
    unfit, pending = [], [top]
    while pending:
        directory = pending.pop()
        names = [os.fsdecode(name) for name in host.list_directory(directory)]
        for name in names:
            path = directory / name
            if name.endswith(".py"):
                compiled = directory / "__pycache__" / f"{name.removesuffix('.py')}.{tag}.pyc"
                if not _is_unchecked(host, compiled):
                    unfit.append(str(path.relative_to(top)))
            elif deep and "." not in name and name not in {"__pycache__", "py.typed"} and path.is_dir():
                pending.append(path)
    return sorted(unfit)


def _is_unchecked(host: Host, path: Path) -> bool:
    """Whether byte code is hash-based (bit 0) and not compared with its source (bit 1 is not set)."""
    if host.find_status(path) is None:
        return False
    fd = host.open_file(path)
    try:
        head = os.read(fd, _HEAD_BYTES)
    finally:
        os.close(fd)
    return len(head) == _HEAD_BYTES and int.from_bytes(head[4:], "little") == 1
