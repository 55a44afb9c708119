"""Properties of spec etc-merge.md, "Writing R", that take privilege: owners, devices, attributes of every kind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import etc_trees
import pytest
from etc_trees import Sides, copy_into, listing, make_sides, merge, write

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""``cap_net_bind_service=ep`` as ``security.capability`` holds it."""


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return make_sides(tmp_path)


@pytest.fixture
def memory_sides() -> Generator[Sides]:
    """On tmpfs, which takes attributes of any size; ext4 keeps them within a block."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="etc-") as base:
        yield make_sides(Path(base))


def test_owner_then_mode_then_attributes_setuid_and_capabilities_survive(sides: Sides) -> None:
    path = write(sides.current / "tool", "x")
    os.chown(path, 1234, 5678)
    path.chmod(0o6755)
    os.setxattr(path, "security.capability", CAPABILITY)
    merge(sides)
    found = listing(sides.result)[b"tool"]
    assert found.owner == (1234, 5678)
    assert stat.S_IMODE(found.mode) == 0o6755
    assert dict(found.xattrs)["security.capability"] == CAPABILITY


def test_contents_cross_file_systems(tmp_path: Path) -> None:
    """The source is a file of procfs, whose size says 0: neither reflink nor in-kernel copy yields its bytes."""
    sides = make_sides(tmp_path)
    proc = Sides(
        Path("/proc/sys/kernel/random"), Path("/proc/sys/kernel/random"), Path("/proc/sys/kernel/random"), sides.result
    )
    merge(proc)
    assert (sides.result / "boot_id").read_bytes() == Path("/proc/sys/kernel/random/boot_id").read_bytes()


def test_a_file_that_nobody_may_read_is_copied(sides: Sides) -> None:
    """Fedora's /etc/shadow: mode 0000, root reads it by its capability."""
    write(sides.new / "shadow", "root:!::0:99999:7:::", 0o000)
    copy_into(sides)
    assert listing(sides.result) == listing(sides.new)


def test_a_changed_owner_in_place_keeps_setuid_and_capabilities(sides: Sides) -> None:
    """chown(2) takes both away."""
    path = write(sides.current / "tool", "x")
    os.chown(path, 1234, 5678)
    path.chmod(0o6755)
    os.setxattr(path, "security.capability", CAPABILITY)
    merge(sides)
    os.chown(sides.result / "tool", 1, 1)
    assert stat.S_IMODE((sides.result / "tool").stat().st_mode) == 0o755
    (sides.result / "tool").chmod(0o6755)
    os.setxattr(sides.result / "tool", "security.capability", CAPABILITY)
    os.utime(sides.result / "tool", ns=(1, path.stat().st_mtime_ns))
    applied = merge(sides)
    assert [(row[0], row[5]) for row in applied.operations] == [("set-attributes", ["owner"])]
    assert listing(sides.result)[b"tool"] == listing(sides.current)[b"tool"]


def test_a_setgid_directory_does_not_hand_its_group_down(sides: Sides) -> None:
    os.chown(sides.result, 0, 4321)
    sides.result.chmod(0o2775)
    write(sides.new / "d/file", "x")
    copy_into(sides)
    assert listing(sides.result) == listing(sides.new)


def test_device_nodes_are_made_by_type_and_number(sides: Sides) -> None:
    os.mknod(sides.current / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(sides.current / "block", stat.S_IFBLK | 0o600, os.makedev(254, 70_000))
    os.mknod(sides.current / "whiteout", stat.S_IFCHR, 0)
    os.setxattr(sides.current / "null", "trusted.mark", b"1")
    merge(sides)
    found, wanted = listing(sides.result), listing(sides.current)
    for name in (b"null", b"block", b"whiteout"):
        assert found[name] == wanted[name]
    assert merge(sides).operations == []
    (sides.result / "null").unlink()
    os.mknod(sides.result / "null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    merge(sides)
    assert listing(sides.result)[b"null"] == wanted[b"null"]


def test_symlinks_have_owners_and_attributes_too(sides: Sides) -> None:
    link = sides.current / "link"
    link.symlink_to("/nowhere")
    os.chown(link, 12, 34, follow_symlinks=False)
    os.setxattr(link, "trusted.mark", b"on the link", follow_symlinks=False)
    merge(sides)
    assert listing(sides.result)[b"link"] == listing(sides.current)[b"link"]
    os.removexattr(sides.result / "link", "trusted.mark", follow_symlinks=False)
    merge(sides)
    assert listing(sides.result)[b"link"] == listing(sides.current)[b"link"]


def test_attributes_up_to_64_kib_are_carried_over(memory_sides: Sides) -> None:
    path = write(memory_sides.current / "file", "x")
    os.setxattr(path, "user.most", os.urandom(65_536))
    os.setxattr(path, "trusted.most", os.urandom(65_536))
    (memory_sides.current / "d").mkdir()
    os.setxattr(memory_sides.current / "d", "trusted.most", os.urandom(65_535))
    assert merge(memory_sides).warnings == []
    found, wanted = listing(memory_sides.result), listing(memory_sides.current)
    assert found[b"file"] == wanted[b"file"]
    assert found[b"d"] == wanted[b"d"]
    assert merge(memory_sides).operations == []


def test_trusted_attributes_are_carried_over_but_for_the_overlays_own(sides: Sides) -> None:
    path = write(sides.current / "file", "x")
    os.setxattr(path, "trusted.mine", b"1")
    os.setxattr(path, "trusted.overlay.origin", b"2")
    merge(sides)
    assert os.listxattr(sides.result / "file") == ["trusted.mine"]
    os.setxattr(sides.result / "file", "trusted.overlay.origin", b"kept")
    assert merge(sides).operations == []


def test_a_label_is_set_and_one_that_the_result_does_not_name_stays(sides: Sides) -> None:
    """The kernel labels new files by itself; an image without labels must not unlabel /etc."""
    label = b"system_u:object_r:etc_t:s0\0"
    os.setxattr(write(sides.current / "labelled", "x"), "security.selinux", label)
    write(sides.current / "unlabelled", "x")
    merge(sides)
    assert os.getxattr(sides.result / "labelled", "security.selinux") == label
    os.setxattr(sides.result / "unlabelled", "security.selinux", label)
    assert merge(sides).operations == []


def run_under_strace(sides: Sides, inject: str) -> subprocess.CompletedProcess[str]:
    name = inject.split(":", maxsplit=1)[0]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={inject}"]
    program = [sys.executable, "-S", "-B", etc_trees.__file__, *map(str, sides)]
    environment = {**os.environ, "PYTHONPATH": "python"}
    return subprocess.run([*command, *program], env=environment, capture_output=True, text=True, check=False)


def test_a_file_system_without_security_attributes_is_a_warning_one_without_user_attributes_an_error(
    sides: Sides,
) -> None:
    os.setxattr(write(sides.current / "tool", "x"), "security.capability", CAPABILITY)
    assert run_under_strace(sides, "fsetxattr:error=EOPNOTSUPP").returncode == 0
    assert os.listxattr(sides.result / "tool") == []
    merge(sides)
    assert listing(sides.result)[b"tool"] == listing(sides.current)[b"tool"]
    os.setxattr(sides.current / "tool", "user.mark", b"1")
    assert run_under_strace(sides, "fsetxattr:error=EOPNOTSUPP").returncode == 6


def test_a_mount_inside_the_destination_is_not_crossed(tmp_path: Path, sides: Sides) -> None:
    """In a mount namespace of its own, so that nothing of the machine changes."""
    write(sides.new / "d/file", "x")
    (sides.result / "d").mkdir()
    outside = tmp_path / "outside"
    write(outside / "precious", "x")
    script = f"mount --bind {outside} {sides.result}/d && exec {sys.executable} -S -B {etc_trees.__file__} " + " ".join(
        map(str, (sides.new, sides.new, sides.new, sides.result))
    )
    environment = {**os.environ, "PYTHONPATH": "python"}
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 6
    assert "d: Invalid cross-device link" in ran.stderr
    assert sorted(os.listdir(outside)) == ["precious"]


def test_without_privilege_what_takes_privilege_is_a_warning_or_an_error(tmp_path: Path, sides: Sides) -> None:
    """A lab host belongs to an ordinary user: capabilities are warned about, foreign owners are refused."""
    os.setxattr(write(sides.new / "tool", "x"), "security.capability", CAPABILITY)
    (sides.new / "closed/inner").mkdir(parents=True)
    write(sides.new / "closed/inner/file", "x", 0o000)
    for path in (*sides.new.rglob("*"), *sides):
        os.chown(path, 65534, 65534)
    os.setxattr(sides.new / "tool", "security.capability", CAPABILITY)
    (sides.new / "closed").chmod(0o500)
    (sides.new / "closed/inner/file").chmod(0o400)
    program = [
        sys.executable,
        "-S",
        "-B",
        etc_trees.__file__,
        *map(str, (sides.new, sides.new, sides.new, sides.result)),
    ]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *program],
            env={**os.environ, "PYTHONPATH": "python"},
            capture_output=True,
            text=True,
            check=False,
        )

    for directory in tmp_path.resolve().parents[:3]:
        directory.chmod(directory.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    first = run()
    assert first.returncode == 0, first.stderr
    assert os.listxattr(sides.result / "tool") == []
    assert listing(sides.result)[b"closed/inner/file"] == listing(sides.new)[b"closed/inner/file"]
    # What an interrupted run left: directories that their owner cannot enter, files that cannot be read.
    (sides.result / "closed/inner/file").chmod(0o000)
    (sides.result / "closed/inner").chmod(0o000)
    (sides.result / "closed").chmod(0o000)
    assert run().returncode == 0
    assert listing(sides.result)[b"closed/inner/file"] == listing(sides.new)[b"closed/inner/file"]
    os.chown(sides.new / "closed/inner/file", 65533, 65534)
    (sides.new / "closed/inner/file").chmod(0o444)
    refused = run()
    assert refused.returncode == 6
    assert "set owner of closed/inner/file: Operation not permitted" in refused.stderr
