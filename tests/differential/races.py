"""What programs do to a file while it is merged, one system call after the other; each state is known to the reference.

A victim is one path of the running /etc. A change is a list of steps; after each step what is at the path is read back,
so that the states that the merge can have met are those that really were.
"""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

from differential.disk import ACL, APPEND, IMMUTABLE, can_have_flags, make, pack_acl, read, set_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.etc.reference import Node

KINDS = (
    "replace", "replace, times kept", "rewrite", "append", "truncate", "chmod", "chown", "ACL", "no ACL", "relabel",
    "xattr", "unlink", "becomes symlink", "becomes FIFO", "becomes directory", "becomes hard link", "flags",
    "name in it",
)  # fmt: skip
_ANY = frozenset({"unlink", "becomes symlink", "becomes FIFO", "becomes directory", "chown", "replace"})
# What can be done to what is there; whatever cannot be is a replacement by a file.
_POSSIBLE = {
    "file": frozenset(KINDS) - {"name in it"},
    "dir": _ANY | {"chmod", "ACL", "no ACL", "relabel", "xattr", "flags", "name in it"},
    "link": _ANY | {"relabel", "xattr"},
    "fifo": _ANY | {"chmod"},
    "char": _ANY | {"chmod"},
}
_ACLS = (
    {(1, 0): 6, (2, 1000): 6, (4, 0): 4, (16, 0): 6, (32, 0): 0},
    {(1, 0): 6, (4, 0): 0, (8, 27): 4, (16, 0): 4, (32, 0): 4},
)


def random_acl(rng: random.Random) -> bytes:
    """An access ACL with somebody named."""
    return pack_acl(rng.choice(_ACLS))


def random_file(rng: random.Random) -> Node:
    """A file of content and attributes of its own."""
    attributes = {"mode": rng.choice((0o600, 0o640, 0o644, 0o4755)), "uid": rng.randrange(3), "gid": rng.randrange(3)}
    if rng.random() < 0.4:
        attributes["security.selinux"] = rng.choice((b"label", b"third label"))
    node = {"kind": "file", "content": b"%x\n" % rng.getrandbits(48), "inode": None, "attributes": attributes}
    if rng.random() < 0.3:
        # The kernel makes the mode's bits those of the ACL.
        attributes["mode"] = 0o660
        attributes[ACL] = random_acl(rng)
    return node


class Race:
    """Changes at one path, and what was there after each step.

    Attributes:
        states: What was at the path: nodes, None where nothing was.
        kinds: What was done.
    """

    def __init__(self, rng: random.Random, root: bytes, victim: bytes, scratch: bytes) -> None:
        self._rng, self._path, self._scratch = rng, root + b"/" + victim, scratch
        self.victim = victim
        self.states: list[Node | None] = []
        self.kinds: list[str] = []
        self.look()

    def look(self) -> None:
        """Note what is there now."""
        self.states.append(read(self._path) if os.path.lexists(self._path) else None)

    def steps(self) -> Iterator[None]:
        """Change something, one system call at a time."""
        kind = self._rng.choice(KINDS)
        last = self.states[-1]
        possible = _ANY - {"unlink", "chown"} if last is None else _POSSIBLE.get(last["kind"], _ANY)
        if kind not in possible:
            kind = "replace"
        self.kinds.append(kind)
        for _ in self._change(kind):
            self.look()
            yield

    def _replace(self, node: Node, *, keep_times: bool = False) -> None:
        if os.path.lexists(self._scratch):
            os.unlink(self._scratch)
        make(node, self._scratch)
        if keep_times and os.path.lexists(self._path):
            found = os.lstat(self._path)
            os.utime(self._scratch, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
        self._drop_directory()
        os.rename(self._scratch, self._path)

    def _drop_directory(self) -> None:
        """A directory is moved away whole, which is one step, and only then something else is in its place."""
        if os.path.isdir(self._path) and not os.path.islink(self._path):
            os.rename(self._path, self._scratch + b".%d" % self._rng.getrandbits(40))
            self.look()

    def _change(self, kind: str) -> Iterator[None]:  # noqa: PLR0912 - a table
        rng, path = self._rng, self._path
        if kind.startswith("replace"):
            self._replace(random_file(rng), keep_times=kind != "replace")
        elif kind in {"rewrite", "append", "truncate"}:
            flags = {"rewrite": os.O_TRUNC, "append": os.O_APPEND, "truncate": os.O_TRUNC}[kind]
            fd = os.open(path, os.O_WRONLY | flags)
            try:
                yield
                if kind != "truncate":
                    os.write(fd, b"%x\n" % rng.getrandbits(48))
            finally:
                os.close(fd)
        elif kind == "chmod":
            os.chmod(path, rng.choice((0o600, 0o640, 0o644, 0o664, 0o000)))
        elif kind == "chown":
            os.chown(path, rng.randrange(3), rng.randrange(3), follow_symlinks=False)
        elif kind == "ACL":
            os.setxattr(path, ACL, random_acl(rng))
        elif kind == "no ACL":
            with contextlib.suppress(OSError):
                os.removexattr(path, ACL)
        elif kind == "relabel":
            os.setxattr(path, "security.selinux", rng.choice((b"label", b"fourth label")), follow_symlinks=False)
        elif kind == "xattr":
            os.setxattr(path, "trusted.a", b"%x" % rng.getrandbits(8), follow_symlinks=False)
        elif kind == "name in it":
            make(random_file(rng), path + b"/name.%d" % rng.randrange(2) + b".%x" % rng.getrandbits(20))
        elif kind == "unlink":
            self._drop_directory()
            if os.path.lexists(path):
                os.unlink(path)
        elif kind == "flags":
            set_flags(path, rng.choice((IMMUTABLE, APPEND)))
            yield
            set_flags(path, 0)
        else:
            self._become(kind)
        yield

    def _become(self, kind: str) -> None:
        attributes = {"mode": 0o640, "uid": 0, "gid": 0}
        base = {"content": b"", "inode": None, "attributes": attributes}
        if kind == "becomes symlink":
            self._replace(
                {**base, "kind": "link", "content": b"elsewhere", "attributes": {**attributes, "mode": 0o777}}
            )
        elif kind == "becomes FIFO":
            self._replace({**base, "kind": "fifo"})
        elif kind == "becomes hard link":
            # Of a file outside: what the merge sees of it is its content and attributes.
            source = self._scratch + b".first"
            if not os.path.lexists(source):
                make(random_file(self._rng), source)
            if os.path.lexists(self._scratch):
                os.unlink(self._scratch)
            os.link(source, self._scratch)
            if os.path.lexists(self._path) and os.path.samefile(source, self._path):
                os.unlink(self._scratch)
                return
            self._drop_directory()
            os.rename(self._scratch, self._path)
        else:
            child = random_file(self._rng)
            other = {**base, "kind": "dir", "attributes": {**attributes, "mode": 0o750}, "children": {b"a": child}}
            away = self._scratch + b".%d" % self._rng.getrandbits(40)
            make(other, away)
            if os.path.lexists(self._path):
                if os.path.isdir(self._path) and not os.path.islink(self._path):
                    self._drop_directory()
                else:
                    os.unlink(self._path)
                    self.look()
            os.rename(away, self._path)


def flag_some(rng: random.Random, root: bytes, paths: list[bytes]) -> list[bytes]:
    """Make some files and directories immutable or append-only; return their paths."""
    flagged = []
    for path in rng.sample(paths, min(len(paths), rng.randrange(3))):
        where = root + b"/" + path if path else root
        if can_have_flags(where):
            set_flags(where, rng.choice((IMMUTABLE, APPEND)))
            flagged.append(path)
    return flagged


def run_changes(race: Race, changes: int, pause: Callable[[], object]) -> None:
    """Make some changes, with pauses between their steps."""
    for _ in range(changes):
        for _step in race.steps():
            pause()
