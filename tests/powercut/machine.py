"""A machine that is nothing but Linux, Python and the product, all of it in memory; and the disks that it is given."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vm.initramfs import make_initramfs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPOSITORY = Path(__file__).parents[2]
ROOTFS = REPOSITORY / "build/rootfs/trixie"
USER_MODE = REPOSITORY / "build/rootfs/user-mode"
_MIB = 1 << 20
_POLL_S = 1
_STALL_S = 240
_STARTS = 3
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /run/lock /root
/bin/busybox --install -s /bin
echo "initramfs: up"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "initramfs: $module failed"; done < /modules/order
exec /usr/bin/python3 -B /powercut/guest.py
"""
_PROGRAMS = ("usr/bin/python3", "usr/bin/lsblk", "usr/bin/findmnt")
_LIBRARIES = {
    f"lib{name}"
    for name in (
        "c", "m", "z", "lzma", "bz2", "expat", "ffi", "crypto", "ssl", "uuid", "gcc_s", "pthread", "dl", "util", "rt",
        "smartcols", "blkid", "mount", "udev", "tinfo", "selinux", "pcre2-8", "cap", "zstd", "econf",
    )
}  # fmt: skip
_NOT_NEEDED = ("test", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "__pycache__")


def install_product(product: Path) -> None:
    """Lay the product out for the machine's Python."""
    version = next((ROOTFS / "usr/lib").glob("python3.*")).name.removeprefix("python")
    subprocess.run([REPOSITORY / "tools/install", product, version], check=True)


@dataclass
class Guest:
    """What a machine boots: a kernel, an initramfs; made once, with another plan each time.

    Attributes:
        work: Where it is made.
        is_user_mode: For the kernel that runs as a process (`run_user_mode`).
    """

    work: Path
    is_user_mode: bool = False

    @property
    def kernel(self) -> Path:
        """Debian's."""
        (found,) = (ROOTFS / "boot").glob("vmlinuz-*")
        return found

    def build(self, plan: Mapping[str, Any], trees: Mapping[str, Path], rehearsal: Path) -> Path:
        """Make the initramfs for a plan.

        Args:
            plan: What is to be done (`guest.py`).
            trees: What it finds below ``/powercut``, by name.
            rehearsal: A host on which all commands run once, for what they import.
        """
        tree = self.work / "initramfs"
        shutil.rmtree(tree, ignore_errors=True)
        if self.is_user_mode:
            archive = make_initramfs(USER_MODE, self.work, init=_INIT, versions="usr/lib/uml/modules")
        else:
            archive = make_initramfs(ROOTFS, self.work, init=_INIT)
        self._add_python(tree)
        own = tree / "powercut"
        own.mkdir()
        for name in ("guest.py", "recording.py"):
            shutil.copy(Path(__file__).with_name(name), own)
        (own / "plan.json").write_text(json.dumps(plan))
        for name, source in {**trees, "rehearsal": rehearsal}.items():
            subprocess.run(["cp", "-a", source, own / name], check=True)
        (own / "rehearsal").rename(tree / "rehearsal")
        argv = ["chroot", tree, "/usr/bin/python3", "/powercut/guest.py", "--rehearse"]
        subprocess.run(argv, check=True, env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL)
        shutil.rmtree(tree / "rehearsal")
        listing = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
        with archive.open("wb") as out:
            argv = ["cpio", "--create", "--format=newc", "--quiet", "--owner=0:0"]
            subprocess.run(argv, input=listing.encode(), stdout=out, cwd=tree, check=True)
        return archive

    def _add_python(self, tree: Path) -> None:
        """Python of the tree that was installed by `tools/make-rootfs`, its libraries, and the product."""
        product = self.work / "product"
        if not product.exists():
            install_product(product)
        skip = shutil.ignore_patterns(*_NOT_NEEDED)
        for source in (ROOTFS / "usr/lib").glob("python3.*"):
            shutil.copytree(source, tree / "usr/lib" / source.name, symlinks=True, ignore=skip)
        shutil.copytree(product / "usr/lib/bootc-fast", tree / "usr/lib/bootc-fast", symlinks=True)
        for merged in ("lib", "lib64"):
            (tree / "usr" / merged).mkdir(exist_ok=True)
            (tree / merged).symlink_to(f"usr/{merged}")
        libraries = tree / "usr/lib/x86_64-linux-gnu"
        libraries.mkdir()
        for path in (ROOTFS / "usr/lib/x86_64-linux-gnu").glob("*.so*"):
            if path.name.partition(".")[0] in _LIBRARIES:
                shutil.copy2(path, libraries, follow_symlinks=False)
        shutil.copy2(ROOTFS / "usr/lib64/ld-linux-x86-64.so.2", tree / "usr/lib64")
        (tree / "usr/bin").mkdir()
        for name in _PROGRAMS:
            shutil.copy2(os.path.realpath(ROOTFS / name), tree / name)


def run_guest(kernel: Path, archive: Path, drives: Sequence[str], console: Path, *, timeout_s: float) -> str:
    """Boot; return what the console says when the machine has gone off.

    QEMU 7.2 now and then loses a request or its timer before the guest has done anything; it is then started again.
    """
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512",
        "-cpu", "Nehalem", "-smp", "1", "-m", "3072", "-display", "none", "-nic", "none",
        "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1 no_timer_check",
        "-serial", f"file:{console}", "-global", "virtio-blk-pci.ioeventfd=off", *drives,
    ]  # fmt: skip
    for _ in range(_STARTS):
        console.write_bytes(b"")
        if _boot(argv, console, timeout_s=timeout_s):
            text = console.read_text(errors="replace")
            if "DONE" in text:
                return text
            raise AssertionError(f"the machine went off without having done all; console:\n{text[-4000:]}")
    raise AssertionError(
        f"the machine stalled {_STARTS} times; console:\n{console.read_text(errors='replace')[-4000:]}"
    )


def run_user_mode(archive: Path, disk: Path, console: Path, *, timeout_s: float) -> str:
    """Boot Debian's kernel for user mode: the same source, vfat and all, as a process at this machine's speed.

    What is written there cannot be recorded, but what is left can be read. It runs in the tree that it came in, whose C
    library it wants, within mounts of its own. `archive` and `disk` lie in one directory.
    """
    work = archive.parent
    assert disk.parent == work
    binds = {"mnt": work, "proc": Path("/proc"), "dev": Path("/dev")}
    for name in binds:
        (USER_MODE / name).mkdir(exist_ok=True)
    for name in ("lib", "lib64"):
        if not (USER_MODE / name).is_symlink():
            (USER_MODE / name).symlink_to(f"usr/{name}")
    mounts = "; ".join(f"mount --rbind '{source}' '{USER_MODE / name}'" for name, source in binds.items())
    argv = [
        "unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{mounts}; exec chroot "$@"', "sh", USER_MODE,
        "/usr/bin/linux.uml", "mem=3072M", f"initrd=/mnt/{archive.name}", f"ubd0=/mnt/{disk.name}",
        "con=null", "con0=null,fd:1", "console=tty0", "quiet", "panic=-1",
    ]  # fmt: skip
    # Its memory is a file, which no disk is to write back.
    environment = {"PATH": os.environ["PATH"], "TMPDIR": "/dev/shm", "HOME": "/mnt"}
    with console.open("wb") as out:
        machine = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            machine.wait(timeout_s)
        finally:
            # Its processes are the machine's; all of them are in this group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    text = console.read_text(errors="replace")
    assert "DONE" in text, f"the machine went off without having done all; console:\n{text[-4000:]}"
    return text


def _boot(argv: Sequence[str | Path], console: Path, *, timeout_s: float) -> bool:
    started = grown = time.monotonic()
    size = 0
    machine = subprocess.Popen(argv)
    try:
        while machine.poll() is None:
            time.sleep(_POLL_S)
            now = time.monotonic()
            if console.stat().st_size != size:
                size, grown = console.stat().st_size, now
            if now - grown > _STALL_S:
                return False
            if now - started > timeout_s:
                raise AssertionError(
                    f"no end in {timeout_s:.0f} s; console:\n{console.read_text(errors='replace')[-4000:]}"
                )
        return True
    finally:
        machine.kill()
        machine.wait()


def make_disk(disk: Path, images: Sequence[Path]) -> list[int]:
    """Put images into the partitions of a GPT disk; return the sectors at which they start."""
    align = 2048
    starts, at = [], align
    lines = ["label: gpt", "table-length: 256"]
    for image in images:
        sectors = image.stat().st_size // 512
        starts.append(at)
        lines.append(f"start={at}, size={sectors}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4")
        at += -(-sectors // align) * align
    with disk.open("wb") as file:
        file.truncate((at + align) * 512)
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["sfdisk", "--quiet", disk], input="\n".join(lines).encode(), check=True, env=environment)
    for image, start in zip(images, starts, strict=True):
        argv = ["dd", f"if={image}", f"of={disk}", "bs=1M", f"seek={start // align}", "conv=notrunc,sparse"]
        subprocess.run([*argv, "status=none"], check=True)
    return starts
