"""Trees for hypothesis: lists of entries that ``_core.build_tree`` takes."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import strategies as st

Kind = Literal["none", "inline", "target", "object", "on-disk"]


@dataclass(frozen=True)
class Entry:
    """What a ``TreeEntry`` has, made by hand."""

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    content: Kind = "none"
    data: bytes | None = None
    target: bytes | None = None
    digest: str | None = None
    link_group: int | None = None


def directory(path: bytes, **attributes: object) -> Entry:
    return replace(Entry(path, stat.S_IFDIR | 0o755), **attributes)  # type: ignore[arg-type]


def inline(path: bytes, data: bytes, **attributes: object) -> Entry:
    made = Entry(path, stat.S_IFREG | 0o644, size_bytes=len(data), content="inline", data=data)
    return replace(made, **attributes)  # type: ignore[arg-type]


# The kernel shows these to root, and takes the values as they are.
_XATTR_NAMES = st.sampled_from([b"user.a", b"user.b", b"user." + b"n" * 200, b"trusted.x", b"security.selinux"])
_XATTRS = st.dictionaries(_XATTR_NAMES, st.binary(max_size=40) | st.just(b"v" * 5000), max_size=3)
_NAMES = st.binary(min_size=1, max_size=30).map(
    lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")
) | st.sampled_from([b"0a", b"ff", b"x" * 255, b"\xff\xfe", b"a\nb", b"-rf", b"..."])
# The kernel's device numbers: 12 bits of major, 20 of minor. 0:0 is a whiteout, tested apart.
_DEVICES = st.tuples(st.integers(1, 4095), st.integers(0, (1 << 20) - 1)).map(
    lambda pair: (pair[0] << 8) | (pair[1] & 0xFF) | ((pair[1] & ~0xFF) << 12)
)


@st.composite
def _leaf(draw: st.DrawFn, objects: dict[str, int]) -> Entry:
    kind = draw(st.sampled_from(["inline", "inline", "object", "target", "char", "block", "fifo", "socket"]))
    blank = Entry(b"", draw(st.integers(0, 0o7777)))
    if kind == "inline":
        data = draw(st.binary(max_size=64))
        return replace(blank, mode=blank.mode | stat.S_IFREG, content="inline", data=data, size_bytes=len(data))
    if kind == "object" and objects:
        digest = draw(st.sampled_from(sorted(objects)))
        return replace(
            blank, mode=blank.mode | stat.S_IFREG, content="object", digest=digest, size_bytes=objects[digest]
        )
    if kind == "target":
        target = draw(st.binary(min_size=1, max_size=300).map(lambda raw: raw.replace(b"\0", b"x")))
        return replace(blank, mode=stat.S_IFLNK | 0o777, content="target", target=target, size_bytes=len(target))
    if kind in {"char", "block"}:
        mode = stat.S_IFCHR if kind == "char" else stat.S_IFBLK
        return replace(blank, mode=blank.mode | mode, rdev=draw(_DEVICES))
    return replace(blank, mode=blank.mode | (stat.S_IFSOCK if kind == "socket" else stat.S_IFIFO))


@st.composite
def entries(draw: st.DrawFn, objects: dict[str, int], max_size: int = 25) -> list[Entry]:
    """Entries of a tree, the root first; ``objects``: digests and sizes that files may have."""
    owner = st.sampled_from([0, 1, 1000, 65535, 65536, 4_000_000_000])
    # The kernel shows mtimes of 64 bits; most are the same, for compact inodes.
    mtime = st.just(1_700_000_000_000_000_005) | st.integers(-(10**18), 4 * 10**18)
    common = st.fixed_dictionaries({"uid": owner, "gid": owner, "mtime_ns": mtime})

    def dressed(entry: Entry, path: bytes) -> Entry:
        # User attributes are on files and directories only.
        plain = stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)
        xattrs = {name: value for name, value in draw(_XATTRS).items() if plain or not name.startswith(b"user.")}
        return replace(entry, path=path, xattrs=xattrs, **draw(common))

    made = [dressed(directory(b""), b"")]
    directories, files, groups = [b""], list[int](), 0
    for _ in range(draw(st.integers(0, max_size))):
        parent = draw(st.sampled_from(directories))
        path = (parent + b"/" if parent else b"") + draw(_NAMES)
        if path.rpartition(b"/")[2] in {b".", b".."} or any(entry.path == path for entry in made):
            continue
        what = draw(st.sampled_from(["directory", "leaf", "leaf", "link"]))
        if what == "directory":
            made.append(dressed(directory(b""), path))
            directories.append(path)
        elif what == "link" and files:
            index = draw(st.sampled_from(files))
            if made[index].link_group is None:
                groups += 1
                made[index] = replace(made[index], link_group=groups)
            made.append(replace(made[index], path=path))
        else:
            files.append(len(made))
            made.append(dressed(draw(_leaf(objects)), path))
    return with_link_counts(made)


def with_link_counts(made: list[Entry]) -> list[Entry]:
    """Link counts as a file system has them."""
    groups = [entry.link_group for entry in made if entry.link_group is not None]
    parents = [entry.path.rpartition(b"/")[0] for entry in made if entry.path and stat.S_ISDIR(entry.mode)]
    return [
        replace(entry, nlink=2 + parents.count(entry.path))
        if stat.S_ISDIR(entry.mode)
        else replace(entry, nlink=groups.count(entry.link_group) or 1)
        for entry in made
    ]
