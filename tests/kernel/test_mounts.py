"""mounts.py with this kernel: detached mounts of devices, EROFS images and composefs overlays."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from kernel_mounts import mount_composefs, mount_image

from bootc_fast import _core
from bootc_fast.errors import MountError
from bootc_fast.machine import mounts
from bootc_fast.machine.host import Host, open_host

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.root


def run(*argv: str | Path) -> str:
    return subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True).stdout


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Generator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def read_at(dir_fd: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
    with os.fdopen(fd) as file:
        return file.read()


def is_device_free(device: str) -> bool:
    """Say whether no file system is on the device: an exclusive open by O_EXCL fails otherwise."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def mount_table() -> str:
    return Path("/proc/self/mountinfo").read_text()


def backing_files() -> list[str]:
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("image\n")
    run("mkfs.erofs", tmp_path / "image.erofs", tree)
    return tmp_path / "image.erofs"


@pytest.fixture
def device(tmp_path: Path) -> Generator[Path]:
    """Make an ext4 file system on a loop device, with a file in it."""
    tree = tmp_path / "boot"
    (tree / "loader").mkdir(parents=True)
    (tree / "loader/loader.conf").write_text("timeout 3\n")
    (tmp_path / "disk").touch()
    os.truncate(tmp_path / "disk", 16 << 20)
    run("mkfs.ext4", "-q", "-d", tree, tmp_path / "disk")
    loop = run("losetup", "--find", "--show", tmp_path / "disk").strip()
    yield Path(loop)
    run("losetup", "--detach", loop)


class OtherMount:
    """The device, mounted by another process in a mount namespace of its own."""

    def __init__(self, device: Path, directory: Path, options: str) -> None:
        script = f"mount -o {options} {device} {directory} && echo ready && while read l; do eval $l; echo done; done"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._device = device
        self._directory = directory
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def flags(self) -> tuple[str, str]:
        """Return the mount's own options and those of its file system."""
        for line in Path(f"/proc/{self._process.pid}/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4] == str(self._directory):
                return fields[5], fields[-1]
        raise AssertionError("not mounted")

    def try_write(self) -> bool:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"touch {self._directory}/x && echo yes || echo no\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert self._process.stdout.readline() == "done\n"
        return answer == "yes\n"

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def mounted_elsewhere(device: Path, tmp_path: Path, options: str) -> Generator[OtherMount]:
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    other = OtherMount(device, directory, options)
    try:
        yield other
    finally:
        other.close()


async def test_an_erofs_image_is_mounted_straight_from_its_file(image: Path) -> None:
    with opened(image) as image_fd:
        async with mount_image(image_fd) as fd:
            assert os.listdir(fd) == ["etc"]
            assert read_at(fd, "etc/hostname") == "image\n"
            assert "erofs" not in mount_table()
            with pytest.raises(OSError, match="Read-only") as caught:
                os.mkdir("new", dir_fd=fd)
            assert caught.value.errno == errno.EROFS


async def test_older_kernels_get_the_image_through_a_loop_device(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _core.mount_detached

    def refuse_files(fstype: bytes, parameters: list[tuple[bytes, object]], *, read_only: bool) -> int:
        # What Linux 6.11 says about a source that is no block device.
        if bytes(dict(parameters)[b"source"]).startswith(b"/proc/self/fd/"):  # type: ignore[call-overload]
            raise OSError(errno.ENOTBLK, "Block device required")
        return real(fstype, parameters, read_only=read_only)  # type: ignore[arg-type]

    monkeypatch.setattr(_core, "mount_detached", refuse_files)
    with opened(image) as image_fd:
        async with mount_image(image_fd) as fd:
            assert read_at(fd, "etc/hostname") == "image\n"
            assert str(image) in backing_files()
    # conftest asserts that the loop device is gone.


async def test_a_file_that_is_no_image_is_a_mount_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    with opened(tmp_path / "file") as image_fd:
        with pytest.raises(MountError, match="mounting the EROFS image: ") as caught:
            async with mount_image(image_fd):
                pytest.fail("mounted zeros")
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.exit_code == 6


@pytest.fixture
def composefs_image(tmp_path: Path) -> tuple[Path, Path]:
    """Make an image with one redirected file, and the directory of its object."""
    objects = tmp_path / "objects"
    (objects / "aa").mkdir(parents=True)
    (objects / "aa/bb").write_text("the object's content\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    size = (objects / "aa/bb").stat().st_size
    # A name, as the overlay sees it: metadata from the image, data by redirect.
    (tree / "file").touch()
    os.truncate(tree / "file", size)
    os.setxattr(tree / "file", "trusted.overlay.redirect", b"/aa/bb")
    os.setxattr(tree / "file", "trusted.overlay.metacopy", b"")
    run("mkfs.erofs", tmp_path / "composefs.erofs", tree)
    return tmp_path / "composefs.erofs", objects


async def test_a_composefs_overlay_shows_the_objects(composefs_image: tuple[Path, Path]) -> None:
    image, objects = composefs_image
    with opened(image) as image_fd, opened(objects, os.O_RDONLY | os.O_DIRECTORY) as objects_fd:
        async with mount_composefs(image_fd, objects_fd, require_verity=False) as fd:
            assert read_at(fd, "file") == "the object's content\n"
            assert os.listxattr(f"/proc/self/fd/{fd}/file") == []
            assert "composefs" not in mount_table()


async def test_required_verity_refuses_objects_without_it(composefs_image: tuple[Path, Path]) -> None:
    image, objects = composefs_image
    with opened(image) as image_fd, opened(objects, os.O_RDONLY | os.O_DIRECTORY) as objects_fd:
        async with mount_composefs(image_fd, objects_fd, require_verity=True) as fd:
            with pytest.raises(OSError, match="Input/output") as caught:
                read_at(fd, "file")
            assert caught.value.errno == errno.EIO


async def test_a_device_is_mounted_and_left_free(device: Path) -> None:
    async with mounts.mount_device(device, fstype="ext4", read_only=False) as fd:
        assert read_at(fd, "loader/loader.conf") == "timeout 3\n"
        os.mkdir("written", dir_fd=fd)
        os.fsync(fd)
        assert not is_device_free(str(device))
    assert is_device_free(str(device))
    async with mounts.mount_device(device, fstype="ext4", read_only=True) as fd:
        assert "written" in os.listdir(fd)
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("new", dir_fd=fd)


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_device_mounted_read_only_elsewhere_keeps_its_flags(
    device: Path, tmp_path: Path, *, read_only: bool
) -> None:
    with mounted_elsewhere(device, tmp_path, "ro") as other:
        before = other.flags()
        assert "ro" in before[0].split(",")
        async with mounts.mount_device(device, fstype="ext4", read_only=read_only) as fd:
            if not read_only:
                os.mkdir("written", dir_fd=fd)
                os.fsync(fd)
            assert other.flags()[0] == before[0]
            assert not other.try_write()
        assert other.flags() == before


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_device_mounted_writable_elsewhere_keeps_its_flags(
    device: Path, tmp_path: Path, *, read_only: bool
) -> None:
    with mounted_elsewhere(device, tmp_path, "rw") as other:
        before = other.flags()
        async with mounts.mount_device(device, fstype="ext4", read_only=read_only) as fd:
            if read_only:
                with pytest.raises(OSError, match="Read-only"):
                    os.mkdir("new", dir_fd=fd)
            else:
                os.mkdir("written", dir_fd=fd)
            assert other.flags() == before
            assert other.try_write()
        assert other.flags() == before


async def test_an_unknown_file_system_is_a_mount_error_with_a_hint(device: Path) -> None:
    with pytest.raises(MountError, match="nonsensefs") as caught:
        async with mounts.mount_device(device, fstype="nonsensefs", read_only=True):
            pytest.fail("mounted nonsense")
    assert caught.value.hint is not None


async def test_a_wrong_file_system_is_a_mount_error(device: Path) -> None:
    with pytest.raises(MountError, match="xfs"):
        async with mounts.mount_device(device, fstype="xfs", read_only=True):
            pytest.fail("mounted ext4 as xfs")


async def test_cancellation_unmounts(device: Path) -> None:
    with trio.CancelScope() as scope:
        async with mounts.mount_device(device, fstype="ext4", read_only=False):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert is_device_free(str(device))


async def test_cancellation_before_the_mount_leaves_nothing(device: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with mounts.mount_device(device, fstype="ext4", read_only=False):
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert is_device_free(str(device))


def test_a_task_torn_away_on_asyncio_leaves_no_mount(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Task.cancel goes through anyio's shields: the thread then ends after everybody who awaited it."""
    real, began, go, ended = _core.mount_detached, threading.Event(), threading.Event(), threading.Event()

    def mount_slowly(fstype: bytes, parameters: list[tuple[bytes, bytes | int | None]], *, read_only: bool) -> int:
        began.set()
        go.wait(10)
        try:
            return real(fstype, parameters, read_only=read_only)
        finally:
            ended.set()

    monkeypatch.setattr(_core, "mount_detached", mount_slowly)

    async def mount() -> None:
        async with mounts.mount_device(device, fstype="ext4", read_only=True):
            pytest.fail("mounted for a task that is gone")

    async def main() -> None:
        task = asyncio.create_task(mount())
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await asyncio.to_thread(ended.wait, 10)

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while not is_device_free(str(device)):
        assert time.monotonic() < deadline


WITH_TESTS = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
HOLDER = """
import sys, trio
from pathlib import Path
from kernel_mounts import mount_image
from bootc_fast.machine import mounts
async def main():
    image = open(sys.argv[2], "rb")
    async with mounts.mount_device(Path(sys.argv[1]), fstype="ext4", read_only=False):
        async with mount_image(image.fileno()):
            print("held", flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


def test_the_kernel_drops_everything_after_kill_9(device: Path, image: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(device), str(image)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=WITH_TESTS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert not is_device_free(str(device))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert is_device_free(str(device))


IN_NAMESPACE = """
import os, sys, trio
from dataclasses import replace
from pathlib import Path
from bootc_fast.machine import mounts
from bootc_fast.machine.host import Host

root = Path(sys.argv[1])

async def clone_of_etc():
    fd = os.open(root / "etc", os.O_RDONLY)
    async with mounts.clone_directory(fd) as clone:
        print(sorted(os.listdir(clone)), os.listdir(os.open("over", os.O_RDONLY, dir_fd=clone)))

async def writable_sysroot():
    host = Host(root=root, is_live=True)
    try:
        host.write_file(host.sysroot / "file", b"x")
    except Exception as error:
        print(type(error).__name__, error.__cause__.errno)
    async with mounts.open_writable(host) as writable:
        writable.make_directory(writable.last_finalize.parent)
        writable.write_file(writable.last_finalize, b"{}")
    print(host.read_bytes(host.last_finalize), os.statvfs(root / "sysroot").f_flag & os.ST_RDONLY)

trio.run(clone_of_etc)
trio.run(writable_sysroot)
"""


ON_READ_ONLY = """
import os, sys, trio
from pathlib import Path
from bootc_fast.machine import mounts
from bootc_fast.machine.host import Host

root = Path(sys.argv[1])
host = Host(root=root, is_live=True)

async def main():
    async with mounts.open_writable(host) as writable:
        writable.make_directory(writable.last_finalize.parent)
        writable.write_file(writable.last_finalize, b"{}")
        print(host.read_bytes(host.last_finalize), bool(os.statvfs(host.sysroot).f_flag & os.ST_RDONLY))

trio.run(main)
for line in Path("/proc/self/mountinfo").read_text().splitlines():
    if line.split()[4] == str(host.sysroot):
        print(line.split()[5].split(",")[0], line.split()[-1].split(",")[0])
"""


def test_clones_show_what_is_under_mounts_and_write_where_the_mount_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "etc/over").mkdir(parents=True)
    (tmp_path / "etc/over/under").touch()
    (tmp_path / "sysroot").mkdir()
    script = (
        f"mount -t tmpfs none {tmp_path}/etc/over && mount --bind {tmp_path}/sysroot {tmp_path}/sysroot && "
        f'mount -o remount,bind,ro {tmp_path}/sysroot && exec {sys.executable} -c "$0" {tmp_path}'
    )
    out = run("unshare", "--mount", "--propagation", "private", "sh", "-c", script, IN_NAMESPACE)
    assert out.splitlines() == ["['over'] ['under']", f"FileSystemError {errno.EROFS}", "b'{}' 1"]


def test_a_physical_root_that_is_read_only_as_a_whole_is_writable_for_a_while(device: Path, tmp_path: Path) -> None:
    (tmp_path / "sysroot").mkdir()
    script = f'mount -o ro {device} {tmp_path}/sysroot && exec {sys.executable} -c "$0" {tmp_path}'
    out = run("unshare", "--mount", "--propagation", "private", "sh", "-c", script, ON_READ_ONLY)
    assert out.splitlines() == ["b'{}' True", "ro ro"]


async def test_a_lab_host_is_writable_as_it_is(tmp_path: Path) -> None:
    host = open_host(tmp_path)
    async with mounts.open_writable(host) as same:
        assert isinstance(same, Host)
        assert same is host


async def test_many_mounts_at_once_leave_nothing(image: Path) -> None:
    async def mount_and_read(image_fd: int) -> None:
        async with mount_image(image_fd) as fd:
            assert read_at(fd, "etc/hostname") == "image\n"
            await trio.lowlevel.checkpoint()

    with opened(image) as image_fd:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(mount_and_read, image_fd)


def test_an_overlay_is_stacked_unseen_and_goes_with_kill_9(
    composefs_image: tuple[Path, Path],
) -> None:
    image, objects = composefs_image
    argv = [sys.executable, "-c", OVERLAY_HOLDER, image, objects]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=WITH_TESTS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"the object's content\n"
        assert "composefs" not in Path(f"/proc/{process.pid}/mountinfo").read_text()
        process.send_signal(signal.SIGKILL)
        process.wait()


OVERLAY_HOLDER = """
import os, sys, trio
from kernel_mounts import mount_composefs
async def main():
    image, objects = (os.open(path, os.O_RDONLY) for path in sys.argv[1:])
    async with mount_composefs(image, objects, require_verity=False) as fd:
        print(open(os.open("file", os.O_RDONLY, dir_fd=fd)).read(), end="", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
