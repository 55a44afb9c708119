"""Updates and rollbacks in a row: two deployments stay bootable, as with bootc; the boot partition stays as full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flowkit import count_nothing, run

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

CHAINED = [(loader, kind) for loader in (Loader.SYSTEMD_BOOT, Loader.GRUB) for kind in (BootType.BLS, BootType.UKI)]
STEPS = ("update", "update", "rollback", "update", "update", "rollback", "rollback", "update", "update")


def _boot_files(host: lab.LabHost) -> dict[str, int]:
    found = {}
    for base in dict.fromkeys((host.boot_dir, host.esp)):
        found |= {str(path.relative_to(host.root)): path.stat().st_size for path in base.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if "composefs" in name or "loader" in name or "grub" in name}


def _own_digests(host: lab.LabHost) -> list[str]:
    """The deployments of the menu, one for each entry."""
    return [entry.digest for entry in lab.read_boot_menu(host).live.entries if entry.is_own and entry.digest]


def _named(names: dict[str, int]) -> set[str]:
    return {
        part
        for name in names
        for part in name.replace(".efi", "/").replace("composefs-", "/").split("/")
        if len(part) == 128
    }


def _update(host: lab.LabHost, capsys: pytest.CaptureFixture[str], version: int) -> str:
    lab.stage_files(host, {"motd": f"v{version}\n"}, version=str(version))
    code, _out, err = run(capsys, "composefs-finalize-staged", "--root", host.root)
    assert code == 0, err
    return err


@pytest.mark.parametrize(("loader", "boot_type"), CHAINED)
def test_a_chain_of_updates_and_rollbacks_keeps_two_and_the_boot_partition_flat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    host = lab.make_host(tmp_path / "host", loader=loader, boot_type=boot_type)
    if loader is Loader.GRUB_CC:
        count_nothing(host.root)
    sizes = []
    for version, step in enumerate(STEPS, 2):
        before = host.booted
        if step == "update":
            assert _update(host, capsys, version) == ""
        else:
            code, _out, err = run(capsys, "rollback", "--root", host.root)
            assert code == 0, err
        lab.boot(host)
        assert host.booted != before
        assert set(_own_digests(host)) == {before, host.booted}
        files = _boot_files(host)
        assert _named(files) == {before, host.booted}
        sizes.append(sum(files.values()))
    assert max(sizes) - min(sizes) < 64, sizes


@pytest.mark.parametrize(("loader", "boot_type"), CHAINED)
def test_a_host_that_has_more_is_brought_down_by_the_next_finalize_which_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    host = lab.make_host(tmp_path / "host", loader=loader, boot_type=boot_type)
    policy = host.root / "etc/bootc-fast/boot.toml"
    deployments = [host.booted]
    for version in range(2, 6):
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text("keep = 4\n")
        _update(host, capsys, version)
        lab.boot(host)
        deployments.append(host.booted)
        assert len(_own_digests(host)) == min(version, 4)
    policy = host.root / "etc/bootc-fast/boot.toml"
    policy.unlink()
    code, _out, err = run(capsys, "rollback", "--root", host.root)
    assert code == 0, err
    assert set(_own_digests(host)) == set(deployments[1:]), "a rollback only sorts"
    run(capsys, "rollback", "--root", host.root)
    err = _update(host, capsys, 6)
    assert "lose their boot entries and boot files: 2 are kept" in err
    assert all(one[:12] in err for one in deployments[1:4])
    assert _named(_boot_files(host)) == {*_own_digests(host)}
    assert len(_own_digests(host)) == 2


@pytest.mark.parametrize(
    "text", ["keep = 1", "keep = 'two'", "kept = 3", "keep = true", "keep =", "pinned = ['x']", "\0"]
)
def test_a_policy_that_is_none_is_told_and_two_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    host = lab.make_host(tmp_path / "host")
    policy = host.root / "etc/bootc-fast/boot.toml"
    policy.parent.mkdir(parents=True)
    policy.write_text(text)
    assert "boot.toml" in _update(host, capsys, 2)
    assert len(_own_digests(host)) == 2
