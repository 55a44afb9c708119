from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, Self, TypeAlias, TypeVar, final

# Polled every 20 ms of work; what it raises ends the call (spec core.md, "Python boundary").
_Check: TypeAlias = Callable[[], object] | None
# Told now and then, on the calling thread, how many units are done, and of how many (0 where nobody knows): bytes of a
# file that is hashed, else entries. What it raises ends the call.
_Progress: TypeAlias = Callable[[int, int], object] | None
_T = TypeVar("_T")

__version__: str

def digest_fd(
    fd: int,
    *,
    algorithm: str = "sha512",
    block_bytes: int = 4096,
    salt: bytes | None = None,
    threads: int = 0,
    progress: _Progress = None,
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
def isolate_mount(mount_fd: int) -> None: ...
def detach_mount(dir_fd: int) -> None: ...
def call_with_private_mounts(function: Callable[[], _T]) -> _T: ...
def kexec_load(kernel_fd: int, initrd_fd: int | None, command_line: bytes) -> None: ...
def kexec_unload() -> None: ...
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
    def content(self) -> Literal["none", "inline", "target", "object", "on-disk", "image"]: ...
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
    def scan(dir_fd: int, *, progress: _Progress = None, check: _Check = None) -> Tree: ...
    @property
    def mounts(self) -> list[bytes]: ...  # mount points that the scan met and left out; none for an image
    def __len__(self) -> int: ...
    def entries(self) -> list[TreeEntry]: ...
    def find(self, path: bytes) -> TreeEntry | None: ...

def sync_filesystem(fd: int) -> None: ...
def is_fat(fd: int) -> bool: ...

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
        progress: _Progress = None,
        check: _Check = None,
    ) -> Tree: ...
    def ingest_tar(
        self,
        fd: int,
        *,
        squash_owner: tuple[int, int] | None = None,
        exclude: Sequence[bytes] = ...,
        progress: _Progress = None,
        check: _Check = None,
    ) -> Tree: ...
    def add_object(self, fd: int, *, check: _Check = None) -> str: ...
    def write_image(self, tree: Tree, *, progress: _Progress = None, check: _Check = None) -> str: ...

@final
class Side:
    """One side of a merge: a tree, and where the contents of its files are; shared freely between plans.

    Args:
        tree: What is there.
        dir_fd: The directory that was scanned, ``O_PATH`` is enough; needed for files that are on disk.
        objects_fd: ``composefs/objects``; needed where an object must be read.

    Both descriptors are duplicated, and the duplicates closed with this and the last plan that was made of it.

    Raises:
        ValueError: A descriptor is negative.
        OSError: It cannot be duplicated.
    """

    def __new__(cls, tree: Tree, dir_fd: int | None = None, objects_fd: int | None = None) -> Side: ...
    def close(self) -> None:
        """Let the descriptors go; it is in no new plan then (ValueError)."""

# (path below /etc, reason in words)
_EtcChangeRow: TypeAlias = tuple[bytes, str]
# (path, the admin's side in words, the image's, strategy, where the loser is kept)
_EtcConflictRow: TypeAlias = tuple[bytes, str, str, str, bytes | None]

@final
class EtcPlan:
    """A merge that is decided; every list is sorted by the bytes of the paths."""

    def __len__(self) -> int:
        """Count the entries of the result, its root included."""

    @property
    def side_lengths(self) -> list[int]:
        """How many entries the pristine, the current and the new tree have, roots included."""

    def close(self) -> None:
        """Let the descriptors go; entries, and writing, are a ValueError then."""

    def entries(self) -> list[tuple[TreeEntry, str, bytes]]:
        """List the result, each entry with the side (``pristine``, ``current``, ``new``) and path of its content."""

    def count_owners(self) -> tuple[dict[int, int], dict[int, int]]:
        """Count the entries of the result that each uid and each gid owns."""

    def side_of(self, path: bytes) -> str | None:
        """Tell which side the content of an entry of the result comes from; None where there is no such entry."""

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
    @property
    def conflicts(self) -> list[_EtcConflictRow]: ...
    @property
    def fatal_conflicts(self) -> list[_EtcConflictRow]:
        """Those of the conflicts that forbid writing: no strategy settles them."""

    @property
    def warnings(self) -> list[tuple[bytes, str]]: ...

def plan_etc(
    pristine: Side,
    current: Side,
    new: Side,
    *,
    rules: Sequence[tuple[bytes, str]] = ...,
    default: str = "fail",
    preferences: Sequence[tuple[bytes, str]] = ...,
    pristine_image: Image | None = None,
    new_image: Image | None = None,
    progress: _Progress = None,
    check: _Check = None,
) -> EtcPlan:
    """Decide a merge; writes nothing, and leaves nothing behind when `check` ends it.

    Where a file was not, when it was read, what the scan had seen, directories are scanned and merged again, up to
    three times.

    Args:
        pristine: P, /etc of the booted image.
        current: C, the running /etc; where its tree met mounts, the result has what N has.
        new: N, /etc of the staged image.
        rules: Pattern and strategy (``fail``, ``current``, ``new``); the first that matches counts.
        default: Strategy where none matches.
        preferences: Pattern, and whose version of a leaf wins that both sides changed: ``current``, ``new`` (the other
            one's content is kept beside it) or ``machine-made`` (new, and nothing is kept); the first counts.
        pristine_image: The whole booted image, to see which links lead somewhere now.
        new_image: The whole new image, to see which of them lead nowhere then.
        progress: Told how many of the files that have to be read are, every 8 ms.
        check: See the top of this file.

    Raises:
        ValueError: A strategy or a preference is unknown.
        InvalidStateError: An object is missing.
        UsageError: A content can only be read with a descriptor that its side lacks.
        FileSystemError, OSError: Reading failed.
    """

def policy_pattern_matches(pattern: bytes, path: bytes) -> bool: ...

# (action, path, size_bytes, entries, link_to, attributes), as bootc_fast.types.EtcOperation takes them
_EtcOperationRow: TypeAlias = tuple[str, bytes, int | None, int | None, bytes | None, list[str]]

@final
class EtcApplied:
    @property
    def operations(self) -> list[_EtcOperationRow]: ...
    @property
    def bytes_copied(self) -> int: ...
    @property
    def warnings(self) -> list[tuple[bytes, str]]: ...
    @property
    def compare_s(self) -> float: ...
    @property
    def apply_s(self) -> float: ...
    @property
    def sync_s(self) -> float: ...
    @property
    def plan(self) -> EtcPlan | None:
        """What was written instead, where files had changed since the scan; None where nothing had."""

def list_etc_operations(
    plan: EtcPlan, dest_fd: int, *, progress: _Progress = None, check: _Check = None
) -> list[_EtcOperationRow]:
    """List what would turn a directory into the result, conflicts or not; changes nothing.

    Args:
        plan: The result.
        dest_fd: The directory, ``O_PATH`` is enough.
        progress: Told entries found in it, with a total of 0, then how many of its files are read, every 8 ms.
        check: See the top of this file.

    Raises:
        FileSystemError: The directory cannot be looked at; ``__cause__`` is the OSError.
    """

def apply_etc(
    plan: EtcPlan,
    dest_fd: int,
    *,
    comparing: _Progress = None,
    progress: _Progress = None,
    check: _Check = None,
) -> EtcApplied:
    """Turn a directory into the result and sync its file system.

    Content and attributes of a file come from one look: where a file is not what the scan saw, the directories are
    scanned and merged again, and a file that changes then once more is taken as it is, with its own attributes and no
    more access than both looks grant. What is another kind of thing each of 16 times is an error.

    What `check` or `progress` raises ends it between two operations: every file is then the old or the new one, and
    the next call completes the directory.

    Args:
        plan: What is written.
        dest_fd: The directory, ``O_PATH`` is enough.
        comparing: Told what ``list_etc_operations`` tells its `progress`, before the first operation.
        progress: Told operations done and their number, at most every 50 ms, and at the end.
        check: See the top of this file.

    Raises:
        EtcConflictError: The plan has fatal conflicts; nothing was looked at or written.
        FileSystemError: Writing or syncing failed; ``__cause__`` is the OSError, where there is one.
        InvalidStateError: An object is missing.
        UsageError: A content can only be read with a descriptor that its side lacks.
    """

@final
class ImageWalk:
    def __iter__(self) -> ImageWalk: ...
    def __next__(self) -> TreeEntry: ...

@final
class Image:
    @staticmethod
    def open(fd: int) -> Image: ...
    def close(self) -> None: ...  # reading is a ValueError then; what the superblock says stays
    def __enter__(self) -> Self: ...
    def __exit__(self, *_error: object) -> None: ...
    def tree(self, subdir: bytes = b"", *, check: _Check = None) -> Tree: ...
    def lookup(self, path: bytes) -> TreeEntry | None: ...
    def walk(self, path: bytes = b"", *, recursive: bool = True) -> ImageWalk: ...
    def dump(self, out_fd: int, *, progress: _Progress = None, check: _Check = None) -> None: ...
    def copy_file(self, path: bytes, out_fd: int, *, check: _Check = None) -> None: ...
    def verify(self, *, progress: _Progress = None, check: _Check = None) -> tuple[int, list[tuple[str, int]]]: ...
    @property
    def composefs_version(self) -> int | None: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def inode_count(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def feature_compat(self) -> int: ...
    @property
    def feature_incompat(self) -> int: ...
    @property
    def uuid(self) -> bytes: ...

@final
class PeImage:
    @staticmethod
    def open(fd: int) -> PeImage: ...
    @staticmethod
    def from_bytes(data: bytes) -> PeImage: ...
    def close(self) -> None: ...  # reading is a ValueError then; the headers stay
    def read(self, offset: int, length: int) -> bytes: ...
    def hash(
        self, parts: Sequence[tuple[int | None, int]], algorithms: Sequence[str], *, check: _Check = None
    ) -> list[bytes]: ...  # of a part without offset: zeros
    @property
    def size_bytes(self) -> int: ...
    @property
    def header_offset(self) -> int: ...
    @property
    def is_64(self) -> bool: ...
    @property
    def characteristics(self) -> int: ...
    @property
    def dll_characteristics(self) -> int: ...
    @property
    def optional_bytes(self) -> int: ...
    @property
    def directory_count(self) -> int: ...
    @property
    def headers_bytes(self) -> int: ...
    @property
    def image_bytes(self) -> int: ...
    @property
    def file_alignment(self) -> int: ...
    @property
    def checksum_offset(self) -> int: ...
    @property
    def security_offset(self) -> int | None: ...
    @property
    def signatures_offset(self) -> int: ...
    @property
    def signatures_bytes(self) -> int: ...
    @property
    def sections(self) -> list[tuple[bytes, int, int, int, int, int, bool]]: ...

@final
class SignerInfo:
    @property
    def issuer(self) -> bytes: ...  # a name in OpenSSL's canonical form
    @property
    def serial(self) -> bytes: ...
    @property
    def digest_algorithm(self) -> str: ...  # dotted
    @property
    def signature_algorithm(self) -> str: ...
    @property
    def attributes(self) -> bytes | None: ...
    @property
    def message_digest(self) -> bytes | None: ...
    @property
    def signature(self) -> bytes: ...

@final
class SignedData:
    @staticmethod
    def parse(data: bytes) -> SignedData: ...
    @property
    def digest_algorithms(self) -> list[str]: ...
    @property
    def content_type(self) -> str: ...
    @property
    def content(self) -> bytes: ...  # without its tag and length
    @property
    def certificates(self) -> list[bytes]: ...
    @property
    def signers(self) -> list[SignerInfo]: ...

_GeneralName: TypeAlias = tuple[int, bytes]

@final
class Certificate:
    @staticmethod
    def parse(data: bytes) -> Certificate: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def der(self) -> bytes: ...
    @property
    def tbs(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...
    @property
    def signature_algorithm(self) -> str: ...
    @property
    def signature_parameters(self) -> bytes: ...
    @property
    def is_algorithm_consistent(self) -> bool: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def serial(self) -> bytes: ...
    @property
    def issuer(self) -> bytes: ...  # a name in OpenSSL's canonical form
    @property
    def subject(self) -> bytes: ...
    @property
    def subject_text(self) -> str: ...
    @property
    def common_names(self) -> list[str]: ...
    @property
    def email_addresses(self) -> list[str]: ...
    @property
    def is_v1(self) -> bool: ...
    @property
    def is_ca(self) -> bool | None: ...
    @property
    def path_length(self) -> int | None: ...
    @property
    def may_sign_certificates(self) -> bool | None: ...
    @property
    def is_netscape_ca(self) -> bool: ...
    @property
    def extended_usages(self) -> list[str]: ...
    @property
    def subject_key_id(self) -> bytes | None: ...
    @property
    def authority_key(self) -> tuple[bytes | None, bytes | None, bytes | None]: ...
    @property
    def alternative_names(self) -> list[_GeneralName]: ...
    @property
    def name_constraints(self) -> tuple[list[_GeneralName], list[_GeneralName], bool] | None: ...
    @property
    def is_proxy(self) -> bool: ...
    @property
    def unhandled_critical(self) -> list[str]: ...
    @property
    def malformed(self) -> list[str]: ...
