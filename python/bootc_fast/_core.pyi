from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, final

# Polled every 20 ms of work; what it raises ends the call (spec core.md, "Python boundary").
_Check: TypeAlias = Callable[[], object] | None

__version__: str

def digest_fd(
    fd: int,
    *,
    algorithm: str = "sha512",
    block_bytes: int = 4096,
    salt: bytes | None = None,
    threads: int = 0,
    check: _Check = None,
) -> str: ...
def digest_many(
    contents: Sequence[bytes],
    *,
    algorithm: str = "sha512",
    block_bytes: int = 4096,
    salt: bytes | None = None,
    check: _Check = None,
) -> list[str]: ...
def measure_fd(fd: int) -> str | None: ...
def open_in_root(dir_fd: int, path: bytes, flags: int, mode: int = 0) -> int: ...
def mount_detached(
    fstype: bytes, parameters: list[tuple[bytes, bytes | int | None]], *, read_only: bool, is_system_root: bool = False
) -> int: ...
def remount_file_system(mount_fd: int, *, read_only: bool) -> None: ...
def clone_mount(dir_fd: int, *, recursive: bool = False, read_only: bool | None = None) -> int: ...
def attach_mount(mount_fd: int, dir_fd: int, path: bytes) -> None: ...
def attach_loop(fd: int) -> tuple[int, bytes]: ...

@final
class TreeEntry:
    @property
    def path(self) -> bytes: ...  # below the root of the tree, which has b""
    @property
    def mode(self) -> int: ...  # st_mode, with the type
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def xattrs(self) -> dict[bytes, bytes]: ...
    @property
    def content(self) -> Literal["none", "inline", "target", "object", "on-disk"]: ...
    @property
    def data(self) -> bytes | None: ...  # content == "inline"
    @property
    def target(self) -> bytes | None: ...  # content == "target"
    @property
    def digest(self) -> str | None: ...  # content == "object"
    @property
    def link_group(self) -> int | None: ...  # the same for every name of one inode, None for the only one

@final
class Tree:
    @staticmethod
    def scan(dir_fd: int, *, check: _Check = None) -> Tree: ...
    @property
    def mounts(self) -> list[bytes]: ...  # mount points that the scan met and left out; none for an image
    def __len__(self) -> int: ...
    def entries(self) -> list[TreeEntry]: ...
    def find(self, path: bytes) -> TreeEntry | None: ...

def sync_filesystem(fd: int) -> None: ...
def compare_uapi_versions(left: str, right: str) -> int: ...
