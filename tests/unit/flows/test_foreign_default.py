"""Said and true: what rollback and finalize say boots next is what the loader takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import pytest
from unit.flows.test_rollback_oddities import Updated, _set_override

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

CASES = [
    (Loader.SYSTEMD_BOOT, "LoaderEntryDefault", "auto-windows", 'bootctl set-default ""'),
    (Loader.SYSTEMD_BOOT, "LoaderEntryDefault", "another.conf", 'bootctl set-default ""'),
    (Loader.SYSTEMD_BOOT, "LoaderEntryOneShot", "another.conf", 'bootctl set-oneshot ""'),
    (Loader.SYSTEMD_BOOT, "loader.conf", "ano*", "remove the line `default ano*` from loader/loader.conf"),
    (Loader.GRUB, "saved_entry", "another.conf", "grub2-editenv - unset saved_entry"),
    (Loader.GRUB, "next_entry", "Other system", "grub2-editenv - unset next_entry"),
]


def _make(directory: Path, capsys: pytest.CaptureFixture[str], loader: Loader) -> Updated:
    updated = Updated(directory / "h", loader, BootType.BLS, capsys)
    (updated.entries / "another.conf").write_bytes(b"title Other system\nlinux /other\n")
    (updated.host.boot_dir / "other").write_bytes(b"k")
    return updated


@pytest.mark.parametrize("case", CASES)
def test_the_last_line_says_what_boots_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: tuple[Loader, str, str, str]
) -> None:
    loader, kind, name, remedy = case
    updated = _make(tmp_path, capsys, loader)
    _set_override(updated, kind, name)
    for options, said in ((("--dry-run",), "Would be next boot: "), ((), "Next boot: ")):
        code, out, _ = updated.roll_back(*options)
        last = out.splitlines()[-1]
        assert (code, last.startswith(said), remedy in last) == (7, True, True), last
        assert "not of this host" in last
        assert sum("ext boot: " in line for line in out.splitlines()) == 1, "no other line says so"
    code, out, _ = updated.roll_back("--json", "--to", "booted")
    assert code == 7
    assert remedy in json.loads(out)["boots_instead"]["remedy"]
    assert updated.next_boot() is None or name == "auto-windows"


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_an_entry_that_comes_first_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader
) -> None:
    updated = _make(tmp_path, capsys, loader)
    path = updated.entries / "zzzz.conf"
    path.write_bytes(b"title First\nsort-key !\nversion 1\nlinux /other\n")
    code, out, _ = updated.roll_back()
    assert (code, "Next boot: zzzz.conf, not of this host" in out.splitlines()[-1]) == (7, True)
    assert "set-default" in out.splitlines()[-1]
    path.unlink()
    code, out, _ = updated.roll_back("--to", "previous")
    assert (code, out.splitlines()[0]) == (0, "Next boot: rollback deployment (as before)")


def test_an_override_that_passes_over_to_ours_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = _make(tmp_path, capsys, Loader.SYSTEMD_BOOT)
    _set_override(updated, "loader.conf", "gone.conf")
    code, out, _ = updated.roll_back()
    assert (code, out.splitlines()[0]) == (0, "Next boot: rollback deployment")


def test_finalize_says_it_too_and_has_done_its_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updated = _make(tmp_path, capsys, Loader.SYSTEMD_BOOT)
    _set_override(updated, "LoaderEntryDefault", "another.conf")
    lab.stage_files(updated.host, version="44", os_id="fedora")
    for options in (("--dry-run",), ()):
        code, out, _ = flowkit.run(capsys, "finalize", "--root", updated.host.root, *options)
        assert (code, 'bootctl set-default ""' in out.splitlines()[-1]) == (0, True)
        assert "The staged deployment boots next" not in out
    code, out, _ = flowkit.run(capsys, "finalize", "--json", "--root", updated.host.root)
    assert json.loads(out)["boots_instead"]["entry_name"] == "another.conf"
