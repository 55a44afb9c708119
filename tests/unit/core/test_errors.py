"""Every OSError that comes from Rust is the one that Python's own call would raise: class, errno, words, file name."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import types
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from failing_calls import NUMBERS, call_failing
from repo_support import ingest, opened, writer

from bootc_fast import _core
from bootc_fast.errors import FileSystemError
from bootc_fast.text import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CLOSED = 987_654
"""No descriptor has this number: the limit is below it."""

QUIET = {
    "digest_many", "policy_pattern_matches", "build_tree", "Tree.entries", "Tree.find", "EtcPlan.entries",
    "EtcPlan.count_owners", "EtcPlan.side_of", "Image.tree", "Image.lookup", "Image.walk", "Image.verify",
    "PeImage.from_bytes", "PeImage.close", "SignedData.parse", "Certificate.parse", "Image.close", "Side.close",
    "EtcPlan.close",
}  # fmt: skip
"""No system call of theirs can fail, or its error is an image's: test_erofs_damage.py and test_image_reading.py."""


class Scene:
    """Real files for real calls: P = N, and a C that differs and has to be read for it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for side, text in (("p", "a"), ("c", "b"), ("n", "a"), ("dest", "a")):
            (base / side / "dir").mkdir(parents=True)
            (base / side / "dir/file").write_text(text * 5000)
        (base / "repo").mkdir()
        (base / "data").write_bytes(b"x" * 5000)
        self.repository = writer(base / "repo")
        digest = self.repository.write_image(ingest(self.repository, base / "p"))
        self.image_path = base / "repo/images" / digest
        with opened(self.image_path) as fd:
            self.image = _core.Image.open(fd)
        self.descriptors: list[int] = []

    def fd(self, name: str, flags: int = os.O_RDONLY) -> int:
        self.descriptors.append(os.open(self.base / name, flags, 0o644))
        return self.descriptors[-1]

    def plan(self) -> Callable[[], _core.EtcPlan]:
        fds = [self.fd(side) for side in "pcn"]
        return partial(_core.plan_etc, *(_core.Side(_core.Tree.scan(fd), dir_fd=fd) for fd in fds))

    def tree(self) -> _core.Tree:
        """A root with one file, whose content an image holds itself."""
        root, file = (types.SimpleNamespace(**FIELDS) for _ in range(2))
        root.path, root.mode, root.nlink = b"", 0o40755, 2
        file.path, file.mode, file.content, file.data, file.size_bytes = b"f", 0o100644, "inline", b"x", 1
        return _core.build_tree([root, file])

    def image_with_content(self) -> _core.Image:
        digest = self.repository.write_image(self.tree())
        with opened(self.base / "repo/images" / digest) as fd:
            return _core.Image.open(fd)

    def pe(self) -> _core.PeImage:
        (self.base / "pe").write_bytes(Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes())
        return _core.PeImage.open(self.fd("pe"))

    def tar(self) -> int:
        with tarfile.open(self.base / "tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("f"), io.BytesIO())
        return self.fd("tar")

    def close(self) -> None:
        # These hold descriptors too.
        del self.repository, self.image
        for fd in self.descriptors:
            os.close(fd)


FIELDS: dict[str, object] = {
    "path": b"", "mode": 0, "uid": 0, "gid": 0, "nlink": 1, "rdev": 0, "size_bytes": 0, "mtime_ns": 0, "xattrs": {},
    "content": "none", "data": None, "target": None, "digest": None, "link_group": None,
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Generator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


class Case(NamedTuple):
    """A function, and the system call below it that fails.

    `call` gets ready what it needs, and returns what is called; `name` is the file in the error, "" for any.
    """

    function: str
    syscall: str
    error: int
    call: Callable[[Scene], Callable[[], object]]
    name: str = ""


OUT = os.O_WRONLY | os.O_CREAT

CASES = [
    Case("sync_filesystem", "syncfs", errno.EIO, lambda s: partial(_core.sync_filesystem, s.fd("p")), "{base}/p"),
    Case("sync_filesystem", "syncfs", errno.ENOSPC, lambda s: partial(_core.sync_filesystem, s.fd("data")),
         "{base}/data"),
    Case("sync_filesystem", "syncfs", errno.EROFS, lambda s: partial(_core.sync_filesystem, s.fd("p")), "{base}/p"),
    Case("is_fat", "fstatfs", errno.EIO, lambda s: partial(_core.is_fat, s.fd("p")), "{base}/p"),
    Case("open_in_root", "openat2", errno.EACCES, lambda s: partial(_core.open_in_root, s.fd("p"), b"dir", 0), "dir"),
    Case("open_in_root", "openat2", errno.EIO, lambda s: partial(_core.open_in_root, s.fd("p"), b"a/\xff", 0),
         "a/\udcff"),
    Case("digest_fd", "read", errno.EIO, lambda s: partial(_core.digest_fd, s.fd("data")), "{base}/data"),
    Case("digest_fd", "statx", errno.ESTALE, lambda s: partial(_core.digest_fd, s.fd("data")), "{base}/data"),
    Case("PeImage.open", "pread64", errno.EIO, lambda s: partial(_core.PeImage.open, s.fd("data")), "{base}/data"),
    Case("PeImage.read", "pread64", errno.EIO, lambda s: partial(s.pe().read, 0, 64), "{base}/pe"),
    Case("PeImage.hash", "pread64", errno.EIO, lambda s: partial(s.pe().hash, [(0, 64)], ["sha256"]), "{base}/pe"),
    Case("measure_fd", "ioctl", errno.EIO, lambda s: partial(_core.measure_fd, s.fd("data")), "{base}/data"),
    Case("mount_detached", "fsopen", errno.EPERM,
         lambda _: partial(_core.mount_detached, b"tmpfs", [], read_only=True), "tmpfs"),
    Case("mount_detached", "fsopen", errno.ENODEV,
         lambda _: partial(_core.mount_detached, b"erofs", [(b"source", b"/dev/x")], read_only=True), "/dev/x"),
    Case("remount_file_system", "fspick", errno.EROFS,
         lambda s: partial(_core.remount_file_system, s.fd("p"), read_only=False), "{base}/p"),
    Case("clone_mount", "open_tree", errno.EPERM, lambda s: partial(_core.clone_mount, s.fd("p")), "{base}/p"),
    Case("attach_mount", "move_mount", errno.EINVAL,
         lambda s: partial(_core.attach_mount, s.fd("p"), s.fd("c"), b""), "{base}/c"),
    Case("attach_mount", "move_mount", errno.ENOENT,
         lambda s: partial(_core.attach_mount, s.fd("p"), s.fd("c"), b"there"), "there"),
    Case("isolate_mount", "mount_setattr", errno.EPERM, lambda s: partial(_core.isolate_mount, s.fd("p")), "{base}/p"),
    Case("detach_mount", "umount2", errno.EBUSY, lambda s: partial(_core.detach_mount, s.fd("p")), "{base}/p"),
    Case("call_with_private_mounts", "unshare", errno.EPERM,
         lambda _: partial(_core.call_with_private_mounts, list), "/"),
    Case("kexec_load", "kexec_file_load", errno.ENOEXEC,
         lambda s: partial(_core.kexec_load, s.fd("data"), None, b""), "{base}/data"),
    Case("kexec_unload", "kexec_file_load", errno.EPERM, lambda _: _core.kexec_unload, "/sys/kernel/kexec_loaded"),
    Case("attach_loop", "openat", errno.ENOENT, lambda s: partial(_core.attach_loop, s.fd("data")),
         "/dev/loop-control"),
    Case("Tree.scan", "getdents64", errno.EIO, lambda s: partial(_core.Tree.scan, s.fd("p")), "."),
    Case("Tree.scan", "statx", errno.EACCES, lambda s: partial(_core.Tree.scan, s.fd("p"))),
    Case("Image.open", "statx", errno.EIO, lambda s: partial(_core.Image.open, s.fd("data")), "{base}/data"),
    Case("Image.dump", "write", errno.ENOSPC, lambda s: partial(s.image.dump, s.fd("out", OUT)), "{base}/out"),
    Case("Image.copy_file", "write", errno.EFBIG,
         lambda s: partial(s.image_with_content().copy_file, b"f", s.fd("out", OUT)), "{base}/out"),
    Case("RepositoryWriter", "openat", errno.EACCES, lambda s: partial(_core.RepositoryWriter, s.fd("repo")), "."),
    Case("RepositoryWriter.ingest_directory", "getdents64", errno.EIO,
         lambda s: partial(s.repository.ingest_directory, s.fd("p")), "."),
    Case("RepositoryWriter.ingest_directory", "pread64", errno.EIO,
         lambda s: partial(s.repository.ingest_directory, s.fd("p")), "dir/file"),
    Case("RepositoryWriter.ingest_tar", "read", errno.EIO, lambda s: partial(s.repository.ingest_tar, s.tar())),
    Case("RepositoryWriter.add_object", "pread64", errno.EIO,
         lambda s: partial(s.repository.add_object, s.fd("data")), "{base}/data"),
    Case("RepositoryWriter.write_image", "openat", errno.ENOSPC,
         lambda s: partial(s.repository.write_image, s.tree())),
    Case("plan_etc", "read", errno.EIO, lambda s: s.plan(), "dir/file"),
    Case("list_etc_operations", "getdents64", errno.EIO,
         lambda s: partial(_core.list_etc_operations, s.plan()(), s.fd("dest")), "."),
    Case("apply_etc", "openat2", errno.EACCES, lambda s: partial(_core.apply_etc, s.plan()(), s.fd("dest"))),
    Case("apply_etc", "syncfs", errno.EIO, lambda s: partial(_core.apply_etc, s.plan()(), s.fd("dest")), "."),
]  # fmt: skip

CLOSED_CASES: dict[str, Callable[[], object]] = {
    "sync_filesystem": partial(_core.sync_filesystem, CLOSED),
    "is_fat": partial(_core.is_fat, CLOSED),
    "open_in_root": partial(_core.open_in_root, CLOSED, b"x", 0),
    "digest_fd": partial(_core.digest_fd, CLOSED),
    "measure_fd": partial(_core.measure_fd, CLOSED),
    "remount_file_system": partial(_core.remount_file_system, CLOSED, read_only=True),
    "clone_mount": partial(_core.clone_mount, CLOSED),
    "isolate_mount": partial(_core.isolate_mount, CLOSED),
    "detach_mount": partial(_core.detach_mount, CLOSED),
    "kexec_load": partial(_core.kexec_load, CLOSED, None, b""),
    "attach_loop": partial(_core.attach_loop, CLOSED),
    "Tree.scan": partial(_core.Tree.scan, CLOSED),
    "Image.open": partial(_core.Image.open, CLOSED),
    "RepositoryWriter": partial(_core.RepositoryWriter, CLOSED),
}


def _check(error: BaseException | None, number: int, name: str) -> None:
    assert error is not None, "nothing was raised"
    found = error if isinstance(error, OSError) else error.__cause__
    assert isinstance(found, OSError), repr(error)
    assert found is error or isinstance(error, FileSystemError)
    expected = OSError(number, os.strerror(number), b"")
    assert type(found) is type(expected)
    assert (found.errno, found.strerror) == (number, os.strerror(number))
    assert isinstance(found.filename, bytes)
    assert found.filename
    if name:
        assert os.fsdecode(found.filename) == name
    # What people read: the file and the system's words, never a bare number.
    assert describe_error(found).endswith(f": {os.strerror(number)}")


@pytest.mark.skipif(not NUMBERS, reason="no table of system calls for this processor")
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.function}-{case.syscall}-{errno.errorcode[case.error]}"
)
def test_a_failed_system_call_keeps_errno_words_and_file(scene: Scene, case: Case) -> None:
    raised = call_failing(case.syscall, case.error, case.call(scene))
    _check(raised, case.error, case.name.format(base=scene.base))


@pytest.mark.parametrize("function", CLOSED_CASES)
def test_a_closed_descriptor_is_named_by_its_place_not_by_a_number(function: str) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        CLOSED_CASES[function]()
    _check(caught.value, errno.EBADF, f"/proc/self/fd/{CLOSED}")


def test_a_file_that_shrinks_while_it_is_hashed_has_an_errno(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"")
    # Long enough, also in memory, that it is not hashed before somebody first asks.
    os.truncate(path, 1 << 30)
    with opened(path, os.O_RDWR) as fd:
        polls: list[None] = []

        def shrink() -> None:
            polls.append(None)
            os.ftruncate(fd, 4096)

        with pytest.raises(OSError, match="large") as caught:
            _core.digest_fd(fd, threads=2, check=shrink)
    assert polls
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == os.fsencode(path)


def test_a_path_that_an_image_lacks_is_named(scene: Scene) -> None:
    for call in (scene.image.tree, scene.image.walk, lambda path: scene.image.copy_file(path, scene.fd("data"))):
        with pytest.raises(FileNotFoundError) as caught:
            call(b"no/\xff")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, b"no/\xff")
    with pytest.raises(NotADirectoryError) as not_a_directory:
        scene.image.tree(b"dir/file")
    assert (not_a_directory.value.errno, not_a_directory.value.filename) == (errno.ENOTDIR, b"dir/file")


def test_every_function_of_the_core_is_failed_or_said_to_be_quiet() -> None:
    known = set()
    for name, value in vars(_core).items():
        if isinstance(value, types.BuiltinFunctionType):
            known.add(name)
        elif isinstance(value, type):
            methods = (
                method for method, found in vars(value).items() if callable(found) or isinstance(found, staticmethod)
            )
            known.update(f"{name}.{method}" for method in methods if not method.startswith("__"))
    known.add("RepositoryWriter")
    assert known == {case.function for case in CASES} | QUIET
