"""Some random merges beside the reference in every run; ``make differential`` does 20,000, most of them disturbed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from differential.disk import ACL, IMMUTABLE, make, pack_acl, read, remove, set_flags, walk
from differential.run import WHENS, run_one
from unit.etc.trees import make_triple

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.root
MERGES = 45


@pytest.fixture
def memory() -> Generator[Path]:
    """Each merge ends with a sync, which on a disk waits for whatever else that has to do."""
    with tempfile.TemporaryDirectory(prefix="bootc-fast-tests.", dir="/dev/shm") as base:
        yield Path(base)


def test_random_merges_are_the_references_whatever_happens_meanwhile(memory: Path) -> None:
    """Seeds of their own for every state of the tree: one that fails is named, and `--only` plays it again."""
    seen: Counter[str] = Counter()
    changed = 0
    for number in range(MERGES):
        seed = f"ci {number}"
        one, problems = run_one(seed, memory)
        assert not problems, f"PYTHONPATH=tests python -m differential.run --only '{seed}'\n{problems}"
        seen[one.when] += 1
        changed += bool(one.kinds)
    assert set(seen) == set(WHENS)
    assert changed > MERGES // 3


def test_what_is_made_is_read_back(tmp_path: Path) -> None:
    """Or nothing would be compared: a tree with everything in it, on disk and back."""
    kinds: Counter[str] = Counter()
    for number in range(40):
        tree = make_triple(bytes((number * 7 + at * 13) % 251 for at in range(400))).c
        for path, node in walk(tree):
            if path and node["kind"] == "file" and node["inode"] is None:
                node["attributes"] |= {ACL: pack_acl({(1, 0): 6, (2, 7): 6, (4, 0): 4, (16, 0): 6, (32, 0): 0})}
                node["attributes"]["mode"] = 0o660
        place = str(tmp_path / str(number)).encode()
        make(tree, place)
        wanted, found = dict(walk(tree)), dict(walk(read(place)))
        assert wanted.keys() == found.keys()
        for path, node in wanted.items():
            assert (node["kind"], node["content"], node["attributes"]) == (
                found[path]["kind"], found[path]["content"], found[path]["attributes"],
            ), path  # fmt: skip
            assert (node["inode"] is None) == (found[path]["inode"] is None)
            kinds[node["kind"]] += 1
    assert {"file", "dir", "link", "fifo", "char"} <= kinds.keys()


def test_a_wrong_result_is_told(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: what is spoilt after the merge is found, whatever it is."""
    from differential import run

    found: Counter[str] = Counter()
    real = run.merge

    def spoil(sides: run.Sides, **kwargs: object) -> object:
        applied = real(sides, **kwargs)
        files = [path for path in sides.result.rglob("*") if path.is_file() and not path.is_symlink()]
        if files:
            set_flags(os.fsencode(files[0]), 0)
            files[0].chmod(files[0].stat().st_mode ^ 0o004)
        return applied

    monkeypatch.setattr(run, "merge", spoil)
    for number in range(12):
        one, problems = run_one(f"spoilt {number}", memory)
        found[one.when] += bool(problems)
    assert found.total() > 6


def test_flags_do_not_keep_what_was_made_from_going(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("x")
    for path in ("a/b/c", "a/b"):
        set_flags(str(tmp_path / path).encode(), IMMUTABLE)
    with pytest.raises(PermissionError):
        shutil.rmtree(tmp_path / "a")
    remove(str(tmp_path / "a").encode())
    assert not (tmp_path / "a").exists()
