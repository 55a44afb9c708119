from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, TypeAlias, final

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

# What build_tree reads of an entry; a TreeEntry has it all.
class _EntryLike(Protocol):
    @property
    def path(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
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
    def data(self) -> bytes | None: ...
    @property
    def target(self) -> bytes | None: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def link_group(self) -> int | None: ...

def build_tree(entries: Iterable[_EntryLike]) -> Tree: ...  # the root first, directories before what is in them

@final
class RepositoryWriter:
    # Makes objects/, images/, streams/ and meta.json where they are missing. durable: an image gets its name only
    # when it and the objects are on disk.
    def __new__(cls, repo_fd: int, *, algorithm: str = "sha512", durable: bool = False) -> RepositoryWriter: ...
    # exclude: paths below the root with all below them; b"proc/*" keeps the directory itself.
    def ingest_directory(
        self,
        dir_fd: int,
        *,
        squash_owner: tuple[int, int] | None = None,
        exclude: Sequence[bytes] = ...,
        check: _Check = None,
    ) -> Tree: ...
    def ingest_tar(
        self,
        fd: int,
        *,
        squash_owner: tuple[int, int] | None = None,
        exclude: Sequence[bytes] = ...,
        check: _Check = None,
    ) -> Tree: ...
    def add_object(self, fd: int, *, check: _Check = None) -> str: ...
    def write_image(self, tree: Tree, *, check: _Check = None) -> str: ...

# (path below /etc, reason in words)
_EtcChangeRow: TypeAlias = tuple[bytes, str]

@final
class EtcPlan:
    def __len__(self) -> int: ...  # entries of the result
    def entries(self) -> list[tuple[TreeEntry, str, bytes]]: ...  # with the side and path of the content
    @property
    def kept(self) -> list[_EtcChangeRow]: ...
    @property
    def deleted(self) -> list[_EtcChangeRow]: ...
    @property
    def image_changes_ignored(self) -> list[_EtcChangeRow]: ...
    @property
    def image_additions_kept(self) -> list[_EtcChangeRow]: ...
    @property
    def dangling_links(self) -> list[_EtcChangeRow]: ...
    # (path, the admin's side in words, the image's, strategy, where the loser is kept)
    @property
    def conflicts(self) -> list[tuple[bytes, str, str, str, bytes | None]]: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def has_fatal_conflicts(self) -> bool: ...

def plan_etc(
    pristine: Tree,
    current: Tree,
    new: Tree,
    *,
    pristine_dir: int | None = None,
    pristine_objects: int | None = None,
    current_dir: int | None = None,
    current_objects: int | None = None,
    new_dir: int | None = None,
    new_objects: int | None = None,
    rules: Sequence[tuple[bytes, str]] = ...,
    default: str = "fail",
    new_image: Tree | None = None,
    check: _Check = None,
) -> EtcPlan: ...
def policy_pattern_matches(pattern: bytes, path: bytes) -> bool: ...
