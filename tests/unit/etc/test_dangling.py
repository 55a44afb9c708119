"""Symlinks that lead somewhere now and nowhere in the new deployment, judged in whole images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from bootc_fast import _core
from bootc_fast.etc.merge import DirectorySource, ImageSource, plan_etc_merge

if TYPE_CHECKING:
    from pathlib import Path


def make_image(base: Path, name: str, files: list[str]) -> Path:
    tree = base / name
    for path in [*files, "etc/os/", "opt/", "nix/", "srv/"]:
        place = tree / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")
    repository = base / "repository"
    repository.mkdir(exist_ok=True)
    tree_fd, repository_fd = (os.open(path, os.O_RDONLY) for path in (tree, repository))
    writer = _core.RepositoryWriter(repository_fd)
    digest = writer.write_image(writer.ingest_directory(tree_fd))
    os.close(tree_fd)
    os.close(repository_fd)
    return repository / "images" / digest


def dangling(tmp_path: Path, links: dict[str, str], booted: list[str], new: list[str]) -> list[str]:
    current = tmp_path / "current"
    (current / "os").mkdir(parents=True)
    for name, target in links.items():
        (current / name).parent.mkdir(parents=True, exist_ok=True)
        (current / name).symlink_to(target)
    images = [os.open(make_image(tmp_path, name, files), os.O_RDONLY) for name, files in (("p", booted), ("n", new))]
    current_fd = os.open(current, os.O_RDONLY)
    try:
        sources = ImageSource(images[0], None), DirectorySource(current_fd), ImageSource(images[1], None)
        plan = trio.run(plan_etc_merge, *sources)
        return [change.path.decode() for change in plan.report.dangling_links]
    finally:
        for fd in (*images, current_fd):
            os.close(fd)


@pytest.mark.parametrize(
    ("target", "booted", "new", "is_told"),
    [
        ("/usr/lib/systemd/system/x.service", ["usr/lib/systemd/system/x.service"], ["usr/lib/y"], True),
        ("../../usr/bin/tool", ["usr/bin/tool"], ["usr/bin/other"], True),
        ("/usr/bin/tool", ["usr/bin/tool"], ["usr/bin/tool"], False),
        # It never led anywhere.
        ("/usr/bin/tool", ["usr/bin/x"], ["usr/bin/y"], False),
        # What an image has empty is filled by somebody else.
        ("/opt/vendor/bin", [], [], False),
        ("/nix/store/abc", ["usr/x"], ["usr/x"], False),
        ("/opt/vendor/bin", ["opt/vendor/bin"], [], False),
        ("/opt/vendor/bin", ["opt/vendor/bin"], ["opt/other"], True),
        # A file that is named as a directory.
        ("/usr/x/", ["usr/x/y"], ["usr/x"], True),
        ("/usr/x/.", ["usr/x/y"], ["usr/x"], True),
        ("/usr/x/", ["usr/x/y"], ["usr/x/z"], False),
        ("/usr/x/../y", ["usr/x/z", "usr/y"], ["usr/x", "usr/y"], True),
        ("/run/x", ["usr/x"], ["usr/y"], False),
    ],
)
def test_what_works_now_and_no_longer_then_is_told(
    tmp_path: Path, target: str, booted: list[str], new: list[str], *, is_told: bool
) -> None:
    # By two ways: on its own, and through another link in /etc.
    found = dangling(tmp_path, {"os/link": target, "x.wants/unit": "../os/link"}, booted, new)
    assert found == (["os/link", "x.wants/unit"] if is_told else [])
