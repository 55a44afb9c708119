"""remove.py with this kernel: what is mounted inside of a tree is neither emptied nor entered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import hosts
import pytest

from bootc_fast.errors import FileSystemError
from bootc_fast.machine.remove import remove_gone, remove_tree

pytestmark = pytest.mark.root


@pytest.mark.parametrize("where", ["top", "etc/inner/deep", "file"])
def test_a_mount_inside_of_a_tree_stops_the_removal_and_loses_nothing(tmp_path: Path, where: str) -> None:
    host = hosts.make_host(tmp_path / "h")
    source, path = tmp_path / "source", host.state_deploy / "tree"
    (path / where).parent.mkdir(parents=True)
    if where == "file":
        source.write_text("kept")
        (path / where).write_text("")
    else:
        source.mkdir()
        (source / "kept").write_text("kept")
        (path / where).mkdir()
    kept = source if where == "file" else source / "kept"
    # The mount moves with the directory above it, so that it is found by what it shows.
    subprocess.run(["mount", "--bind", source, path / where], check=True)
    try:
        with pytest.raises(FileSystemError, match="Device or resource busy") as caught:
            remove_tree(host, path)
        assert caught.value.exit_code == 6
        assert kept.read_text() == "kept"
        assert not path.exists()
    finally:
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        found = [place for place in places if place.startswith(str(host.state_deploy))]
        subprocess.run(["umount", *found], check=True)
    assert remove_gone(host, host.state_deploy) == 1
    assert kept.read_text() == "kept"
