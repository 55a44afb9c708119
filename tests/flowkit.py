"""Lab hosts for the flows' tests: one that an admin has edited and that has an update staged, and looks at them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootc_fast import DirectorySource, lab
from bootc_fast.cli import main
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import pytest

COMBINATIONS = [
    (Loader.SYSTEMD_BOOT, BootType.BLS),
    (Loader.SYSTEMD_BOOT, BootType.UKI),
    (Loader.GRUB, BootType.BLS),
    (Loader.GRUB, BootType.UKI),
    (Loader.GRUB_CC, BootType.BLS),
]

OLD = {"motd": "v1\n", "keep": "same\n", "ssh/sshd_config": "Port 22\n", "gone": "old\n"}
NEW = {"motd": "v2\n", "keep": "same\n", "ssh/sshd_config": "Port 22\n", "gone": "old\n", "fresh": "new\n"}
# What an admin does to OLD, and what a merge with NEW makes of it.
EDITS = {"ssh/sshd_config": b"Port 2222\n", "local.conf": b"mine\n", "name-\xff".encode("latin-1"): b"bytes\n"}
MERGED = {
    b"motd": b"v2\n",
    b"keep": b"same\n",
    b"ssh/sshd_config": b"Port 2222\n",
    b"fresh": b"new\n",
    b"local.conf": b"mine\n",
    b"name-\xff": b"bytes\n",
}

# Written by every run that may write at all: not part of "the host is as it was".
NOT_COMPARED = (b"run/bootc-fast.lock", b"sysroot/state/bootc-fast")


@dataclass(frozen=True)
class Case:
    """A host with an edited /etc and a staged update.

    Attributes:
        host: The lab host.
        booted: What runs.
        staged: What is to boot next.
    """

    host: lab.LabHost
    booted: str
    staged: str

    @property
    def root(self) -> Path:
        return self.host.root


def make_case(
    directory: Path, loader: Loader = Loader.SYSTEMD_BOOT, boot_type: BootType = BootType.BLS, **options: object
) -> Case:
    host = lab.make_host(directory, files=OLD, loader=loader, boot_type=boot_type, **options)  # type: ignore[arg-type]
    if loader is Loader.GRUB_CC:
        # It cannot count, and says so at every finalize.
        count_nothing(host.root)
    for name, content in EDITS.items():
        path = os.path.join(os.fsencode(host.root / "etc"), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(content)
    os.unlink(host.root / "etc/gone")
    (host.root / "var/.updated").write_text("")
    booted = host.booted
    staged = lab.stage_files(host, NEW)
    return Case(host, booted, staged)


def read_tree(directory: Path | bytes) -> dict[bytes, bytes]:
    """Regular files below a directory, by path."""
    base = os.fsencode(directory)
    found = {}
    for where, _names, files in os.walk(base):
        for name in files:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, base)] = file.read()
    return found


def staged_etc(case: Case) -> dict[bytes, bytes]:
    return read_tree(case.host.state_dir(case.staged) / "etc")


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything below a host's root that a run which changes nothing must not change, attributes too."""
    base = os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    for where, names, files in os.walk(base):
        for name in [*names, *files]:
            path = os.path.join(where, name)
            relative = os.path.relpath(path, base)
            if relative.startswith(NOT_COMPARED):
                continue
            found[relative] = _describe(path)
    return found


def _describe(path: bytes) -> tuple[object, ...]:
    status = os.lstat(path)
    facts: tuple[object, ...] = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*facts, os.readlink(path))
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return (*facts, status.st_mtime_ns, status.st_nlink, file.read())
    return facts


def count_nothing(root: Path) -> None:
    """Have boots not counted, for tests of what is the same whether they are: names without counters, no one-shot."""
    path = root / "usr/lib/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[trial]\ntries = 0\n")


def next_boot(host: lab.LabHost) -> str:
    """The deployment that the loader takes, told without our own reader: the simple cases of its rule."""
    user_cfg = host.boot_dir / "grub2/user.cfg"
    if host.loader is Loader.GRUB and user_cfg.exists():
        return _digest_in(user_cfg.read_text())
    entries = {
        path.name: path.read_text(errors="replace")
        for path in (host.boot_dir / "loader/entries").glob("*.conf")
        if path.is_file()
    }
    if host.loader is Loader.SYSTEMD_BOOT:
        return _digest_in(
            min((text for text in entries.values() if "sort-key" in text), key=lambda text: _value(text, "sort-key"))
        )
    return _digest_in(entries[max(entries)])


def _value(text: str, key: str) -> str:
    return next(line.split(None, 1)[1] for line in text.splitlines() if line.startswith(key))


def _digest_in(text: str) -> str:
    named = re.search(r"composefs=\??([0-9a-f]{64,128})", text) or re.search(r"([0-9a-f]{64,128})\.efi", text)
    assert named is not None, text
    return named[1]


def run(capsys: pytest.CaptureFixture[str], *argv: str | os.PathLike[str]) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    code = main([os.fspath(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def finalize(capsys: pytest.CaptureFixture[str], case: Case, *options: str) -> tuple[int, str, str]:
    return run(capsys, "composefs-finalize-staged", "--root", case.root, *options)


def read_record(root: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((root / "sysroot/state/bootc-fast/last-finalize.json").read_text())
    return record


def assert_unchanged_by(case: Case, action: Callable[[], object]) -> None:
    before = snapshot(case.root)
    action()
    assert snapshot(case.root) == before


@contextlib.contextmanager
def open_sides(base: Path) -> Generator[tuple[DirectorySource, DirectorySource, DirectorySource, int]]:
    """Pristine, current, new and a destination, each a directory with one file of its own, open for a merge."""
    with contextlib.ExitStack() as stack:
        fds = []
        for name in ("pristine", "current", "new", "dest"):
            (base / name).mkdir()
            (base / name / "motd").write_text(name)
            fds.append(os.open(base / name, os.O_RDONLY | os.O_DIRECTORY))
            stack.callback(os.close, fds[-1])
        pristine, current, new = map(DirectorySource, fds[:3])
        yield pristine, current, new, fds[3]
