"""The program of the machine whose writes are recorded, or in which states are taken up again: its first process.

It runs in an initramfs with Python and the product, and needs nothing else. ``/powercut/plan.json`` says what to do.
Marks between the steps are sectors that are written behind the partitions: they are in QEMU's log like all else.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import recording

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS = Path("/powercut/hosts")
STATES = Path("/powercut/states")
PLAN = Path("/powercut/plan.json")
MODULES = Path("/powercut/modules.json")
TREE = Path("/powercut/tree")
WORK = Path("/work")
IDLE_S = 7
_EXCHANGE = 2
_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)
_started = time.monotonic()


def say(*words: object) -> None:
    print(f"[{time.monotonic() - _started:7.1f}]", *words, flush=True)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


def call_product(*argv: str | Path, note_modules: bool = False) -> tuple[int, str]:
    """Run the real command line in a child, with what it imports imported once; its exit code and output."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code: object = 99
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.close(reader)
            sys.argv = ["bootc-fast", *map(str, argv)]
            from bootc_fast.cli import main

            code = main() or 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # noqa: BLE001 - a child of a fork must not go on as its parent
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if note_modules:
            MODULES.write_text(json.dumps(sorted(sys.modules)))
        os._exit(code if isinstance(code, int) else 98)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def mark(disk: Path, text: str) -> None:
    """Write a mark into the disk's last sector but 33, which no partition has."""
    fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    page.write(b"MARK " + text.encode().ljust(507, b"\0"))
    os.pwritev(fd, [memoryview(page)[:512]], os.lseek(fd, 0, os.SEEK_END) - 64 * 512)
    os.close(fd)


class Boot:
    """A host and its boot partition."""

    def __init__(self, plan: dict[str, str], host: Path, device: Path) -> None:
        self.plan, self.host, self.device = plan, host, device
        self.is_own = plan["boot"] == "boot"
        self.place = host / ("sysroot/boot" if self.is_own else "efi")
        self.boot = self.place if self.is_own or plan["boot"] == "efi" else host / "sysroot/boot"

    def mount(self, *more: str) -> None:
        options = ",".join(filter(None, [self.plan["mount"], *more])) or "rw"
        run("mount", "-t", "ext4" if self.plan["ext4"] else "vfat", "-o", options, self.device, self.place)
        if self.plan["boot"] == "shared":
            run("mount", "-o", "bind", self.place, self.boot)

    def unmount(self) -> None:
        if self.plan["boot"] == "shared":
            run("umount", self.boot)
        run("umount", self.place)


# bootc's own sequence, system call by system call (crates/lib/src/bootc_composefs/{finalize,rollback}.rs at 534c76ea).


def _exchange(directory: int, one: str, two: str) -> None:
    if _libc.renameat2(directory, one.encode(), directory, two.encode(), _EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def _bootc_exchange_entries(loader: Path) -> None:
    fd = os.open(loader, os.O_RDONLY | os.O_DIRECTORY)
    _exchange(fd, "entries.staged", "entries")
    shutil.rmtree("entries.staged", dir_fd=fd)
    os.fsync(fd)
    os.close(fd)


def _bootc_exchange_user_cfg(grub: Path) -> None:
    fd = os.open(grub, os.O_RDONLY | os.O_DIRECTORY)
    _exchange(fd, "user.cfg.staged", "user.cfg")
    os.unlink("user.cfg.staged", dir_fd=fd)
    os.fsync(fd)
    os.fsync(fd)
    os.close(fd)


def bootc_finalize(boot: Boot) -> None:
    if (boot.boot / "grub2/user.cfg").exists():
        _bootc_exchange_user_cfg(boot.boot / "grub2")
    else:
        _bootc_exchange_entries(boot.boot / "loader")


def _bootc_write(directory: Path, name: str, data: bytes) -> None:
    """As cap-std-ext's atomic_write: a temporary file, written, renamed; no fsync."""
    other = directory / (".tmp" + os.urandom(4).hex())
    fd = os.open(other, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, data)
    os.close(fd)
    other.rename(directory / name)


def bootc_rollback(boot: Boot) -> None:
    config = boot.boot / "grub2/user.cfg"
    if config.exists():
        head, *entries = config.read_text().split("menuentry")
        turned = head + "".join("menuentry" + entry for entry in entries[::-1])
        _bootc_write(config.parent, "user.cfg.staged", turned.encode())
        _bootc_exchange_user_cfg(config.parent)
        return
    loader = boot.boot / "loader"
    own = [path.read_bytes() for path in (loader / "entries").iterdir() if path.name.startswith("bootc_")]
    own.sort(key=lambda raw: raw.split(b"\nsort-key ")[1])
    shutil.rmtree(loader / "entries.staged", ignore_errors=True)
    (loader / "entries.staged").mkdir()
    for rank, raw in enumerate(own):
        version = raw.split(b"\nversion ")[1].split(b"\n")[0].decode()
        text = re.sub(rb"\nsort-key [^\n]*", b"\nsort-key bootc-bootc-%d" % (1 - rank), raw)
        _bootc_write(loader / "entries.staged", f"bootc_bootc-{version}-{rank}.conf", text)
    fd = os.open(loader / "entries.staged", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    _bootc_exchange_entries(loader)


def do_step(step: str, boot: Boot) -> object:
    """One step of a recording."""
    host = boot.host
    if boot.plan["who"] == "bootc":
        return (bootc_finalize if step == "finalize" else bootc_rollback)(boot)
    commands: dict[str, tuple[str | Path, ...]] = {
        "stage": ("lab", "stage", host, "--from", TREE),
        "finalize": ("--root", host, "composefs-finalize-staged"),
        "boot": ("lab", "boot", host),
        "rollback": ("--root", host, "rollback"),
        "revert": ("--root", host, "rollback"),
        "boot-complete": ("--root", host, "boot-complete"),
        "doctor": ("--root", host, "doctor", "--repair"),
        # A host in a directory has no units: each start of it is complete.
        "bless": ("--root", host, "boot-complete"),
        "fallback": ("--root", host, "boot-complete"),
        "unstage": ("--root", host, "unstage"),
    }
    return call_product(*commands[step])


def record(plan: dict[str, str], device: Path, disk: Path) -> None:
    """Do the steps of a configuration on its partition, with marks."""
    host = WORK / plan["name"]
    shutil.copytree(HOSTS / plan["host"], host, symlinks=True)
    boot = Boot(plan, host, device)
    boot.mount()
    mark(disk, f"{plan['name']} start")
    for step in plan["steps"]:
        before = time.monotonic()
        done = do_step(step, boot)
        say(plan["name"], step, f"{time.monotonic() - before:.2f} s", json.dumps(done))
        mark(disk, f"{plan['name']} {step}")
        if plan["idle"]:
            time.sleep(IDLE_S)
            mark(disk, f"{plan['name']} {step}-idle")
    boot.unmount()
    mark(disk, f"{plan['name']} unmount")
    shutil.rmtree(host)


def stage_on(plan: dict[str, str], host: Path, image: Path, one: recording.Recording) -> None:
    """Stage on a host; what that leaves on the boot partition is thrown away."""
    recording.write_image(image, plan["size_mib"] << 20, one.base)
    boot = Boot(plan, host, image)
    boot.mount("loop")
    say(plan["name"], "old", do_step("stage", boot))
    boot.unmount()


def prepare_updated(
    plan: dict[str, str], hosts: dict[str, Path], image: Path, one: recording.Recording
) -> Callable[[str], None]:
    """Make the hosts that finalize, or roll back; what is returned is called before each run."""
    for host in hosts.values():
        shutil.copytree(HOSTS / plan["host"], host, symlinks=True)
    if plan["steps"][0] == "stage":
        stage_on(plan, hosts["old"], image, one)
    recording.write_image(image, plan["size_mib"] << 20, one.base)
    boot = Boot(plan, hosts["new"], image)
    boot.mount("loop")
    for step in [*(["stage"] if plan["steps"][0] == "stage" else []), "finalize", "boot"]:
        say(plan["name"], "new", do_step(step, boot))
    boot.unmount()
    marker = hosts["old"] / "run/composefs/staged-deployment"
    staged = marker.read_bytes()
    return lambda _kind: marker.write_bytes(staged) and None


def prepare_given(
    plan: dict[str, str], hosts: dict[str, Path], _image: Path, _one: recording.Recording
) -> Callable[[str], None]:
    """Hosts as they were when the power failed: each run gets a fresh one."""
    recipes = dict(zip(("old", "new"), plan["again"], strict=True))

    def get_ready(kind: str) -> None:
        shutil.rmtree(hosts[kind], ignore_errors=True)
        shutil.copytree(HOSTS / recipes[kind], hosts[kind], symlinks=True)

    for kind in hosts:
        get_ready(kind)
    return get_ready


def take_up(one: recording.Recording) -> recording.Recording:
    """Run the product on states: the events are each state's sectors, then its name; so is what is returned."""
    plan = one.facts
    name, size = plan["name"], plan["size_mib"] << 20
    image = WORK / f"{name}.img"
    hosts = {key: WORK / f"{name}-{key}" for key in ("old", "new")}
    prepare = prepare_given if plan.get("again") else prepare_updated
    get_ready = prepare(plan, hosts, image, one)
    out = recording.Recording({"said": {}}, {})
    state: dict[int, bytes] = {}
    for event in one.events:
        if isinstance(event, recording.Write):
            state[event.sector] = event.data
            continue
        assert isinstance(event, recording.Mark)
        recording.write_image(image, size, one.base, state)
        kind, *argv = plan["runs"][event.name]
        get_ready(kind)
        boot = Boot(plan, hosts[kind], image)
        try:
            boot.mount("loop")
        except subprocess.CalledProcessError:
            # ext4's superblock has two sectors and a sum over both: with one of them e2fsck has to come first.
            out.facts["said"][event.name] = None
            out.events.append(event)
            state = {}
            continue
        # What runs first at each boot, whatever it has to tell; then what is asked for.
        _code, told = call_product("--root", boot.host, "boot-complete")
        code, text = call_product("--root", boot.host, *argv)
        boot.unmount()
        say(name, event.name, kind, argv, code)
        out.facts["said"][event.name] = [code, told + text]
        after = recording.read_image(image)
        zero = dict.fromkeys(one.base.keys() - after.keys(), recording.ZERO)
        changed = {at: data for at, data in {**after, **zero}.items() if one.base.get(at) != data}
        out.events += [recording.Write(at, data) for at, data in changed.items()]
        out.events.append(event)
        state = {}
    image.unlink()
    for host in hosts.values():
        shutil.rmtree(host)
    return out


def take_up_all(disk: Path) -> None:
    """Take up all states that came along, and write what is left of them to a disk."""
    found: dict[str, recording.Recording] = {}
    for name, one in recording.load(STATES).items():
        try:
            found[name] = take_up(one)
        except BaseException:  # noqa: BLE001 - the others are to be looked at all the same
            say("FAILED", name, traceback.format_exc())
    result = WORK / "result"
    recording.save(result, found, preset=0)
    raw = result.read_bytes()
    with disk.open("r+b") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        os.fsync(file.fileno())


def find_disk(serial: str) -> Path:
    """Find a virtio disk; the kernel for user mode has another kind, and only one of it."""
    if (only := Path("/dev/ubda")).exists():
        return only
    for path in Path("/sys/block").glob("vd*"):
        if (path / "serial").read_text().strip() == serial:
            return Path("/dev") / path.name
    raise FileNotFoundError(serial)


def import_product() -> None:
    """Import what the product imports when it runs: its children then start at once."""
    sys.path.insert(0, "/usr/lib/bootc-fast")
    for name in json.loads(MODULES.read_text()):
        with contextlib.suppress(Exception):  # what only works in a child, or is no module
            __import__(name)


def rehearse() -> None:
    """Play all commands once where Python is fast: compiles what they import, and notes its names."""
    host = Path("/rehearsal")
    sys.path.insert(0, "/usr/lib/bootc-fast")
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("--root", host, "composefs-finalize-staged"),
        ("lab", "boot", host),
        ("--root", host, "rollback"),
        ("--root", host, "doctor", "--repair"),
        ("--root", host, "boot-complete"),
        ("lab", "stage", host, "--from", TREE),
        ("--root", host, "rollback", "--to", "a"),
    )
    names: set[str] = set()
    for argv in commands:
        say(argv[-1], *call_product(*argv, note_modules=True))
        names |= set(json.loads(MODULES.read_text()))
    MODULES.write_text(json.dumps(sorted(names)))


def main() -> None:
    WORK.mkdir()
    import_product()
    say("up", os.uname().release)
    plan = json.loads(PLAN.read_text())
    disk = find_disk("boot")
    if STATES.exists():
        take_up_all(disk)
    for number, one in enumerate(plan["recordings"], 1):
        try:
            record(one, Path(f"{disk}{number}"), disk)
        except BaseException:  # noqa: BLE001 - the others are to be recorded all the same
            say("FAILED", one["name"], traceback.format_exc())


if __name__ == "__main__" and sys.argv[1:] == ["--rehearse"]:
    rehearse()
elif __name__ == "__main__":
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8", NO_COLOR="1")
    try:
        main()
        say("DONE")
    except BaseException:  # noqa: BLE001 - the machine goes off whatever went wrong, and says it
        say("FAILED", traceback.format_exc())
    os.sync()
    _libc.reboot(_OFF)
