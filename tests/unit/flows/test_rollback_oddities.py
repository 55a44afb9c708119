"""_rollback.py where something else picks the entry, and where bootc or a power cut left damage."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio
from loader_emulation import boot_next

from bootc_fast import events, lab, rollback
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bootc_fast.types import VerityDigest

VARIABLES = ("LoaderEntryDefault", "LoaderEntryOneShot")


class Updated:
    """A host that has been updated once by us: `previous` is the rollback target."""

    def __init__(
        self, directory: Path, loader: Loader, boot_type: BootType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.capsys = capsys
        self.host = lab.make_host(directory, loader=loader, boot_type=boot_type, version="43", os_id="fedora")
        flowkit.count_nothing(self.host.root)
        self.previous: VerityDigest = self.host.booted
        lab.stage_files(self.host, version="42", os_id="fedora")
        assert flowkit.run(capsys, "finalize", "--root", self.host.root)[0] == 0
        lab.boot(self.host)
        self.booted: VerityDigest = self.host.booted

    @property
    def entries(self) -> Path:
        return self.host.boot_dir / "loader/entries"

    def find(self, digest: str) -> Path:
        return next(path for path in self.entries.glob("*.conf") if f"composefs={digest}" in path.read_text())

    def roll_back(self, *options: str) -> tuple[int, str, str]:
        return flowkit.run(self.capsys, "rollback", "--root", self.host.root, *options)

    def next_boot(self) -> str | None:
        """What the tests' own loader boots."""
        files = {path.decode(): raw for path, raw in flowkit.read_tree(self.host.boot_dir).items()}
        found = {name: self.host.read_efi_variable(name) for name in VARIABLES}
        variables = {name: value for name, value in found.items() if value is not None}
        return boot_next(self.host.loader, files, variables).digest


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Updated]:
    return lambda loader=Loader.SYSTEMD_BOOT, boot_type=BootType.BLS: Updated(tmp_path / "h", loader, boot_type, capsys)


def _set_override(updated: Updated, kind: str, name: str) -> None:
    if kind in VARIABLES:
        updated.host.write_efi_variable(kind, name)
    elif kind == "loader.conf":
        (updated.host.boot_dir / "loader/loader.conf").write_text(f"timeout 3\ndefault {name}\n")
    else:
        (updated.host.boot_dir / "grub2").mkdir(exist_ok=True)
        block = f"# GRUB Environment Block\n{kind}={name.removesuffix('.conf')}\n"
        (updated.host.boot_dir / "grub2/grubenv").write_text(block.ljust(1024, "#"))


OVERRIDES = [
    *((Loader.SYSTEMD_BOOT, kind) for kind in (*VARIABLES, "loader.conf")),
    *((Loader.GRUB, kind) for kind in ("saved_entry", "next_entry")),
]


@pytest.mark.parametrize(("loader", "kind"), OVERRIDES)
def test_an_override_that_names_one_of_ours_moves_along(
    make: Callable[..., Updated], loader: Loader, kind: str
) -> None:
    updated = make(loader)
    _set_override(updated, kind, updated.find(updated.booted).name)
    assert updated.next_boot() == updated.booted
    for wanted in (updated.previous, updated.booted, updated.previous):
        assert updated.roll_back()[0] == 0
        assert updated.next_boot() == wanted


@pytest.mark.parametrize(("loader", "kind"), OVERRIDES)
def test_an_override_that_queued_the_other_deployment_is_reverted(
    make: Callable[..., Updated], loader: Loader, kind: str
) -> None:
    updated = make(loader)
    _set_override(updated, kind, updated.find(updated.previous).name)
    assert updated.next_boot() == updated.previous
    code, out, _ = updated.roll_back()
    assert (code, out.splitlines()[0]) == (0, "notice: Reverting queued rollback state")
    assert updated.next_boot() == updated.booted


@pytest.mark.parametrize(("loader", "kind"), OVERRIDES)
def test_an_override_that_names_a_foreign_entry_stays_and_is_reported(
    make: Callable[..., Updated], loader: Loader, kind: str
) -> None:
    updated = make(loader)
    raw = b"title Memory test\nlinux /memtest.bin\n# an admin's\n"
    (updated.entries / "aa-memtest.conf").write_bytes(raw)
    (updated.host.boot_dir / "memtest.bin").write_bytes(b"m")
    _set_override(updated, kind, "aa-memtest.conf")
    code, _, err = updated.roll_back()
    assert (code, "warning: the loader boots aa-memtest.conf first" in err) == (7, True)
    assert updated.next_boot() is None
    assert (updated.entries / "aa-memtest.conf").read_bytes() == raw
    (updated.entries / "aa-memtest.conf").unlink()
    assert updated.next_boot() == updated.previous


def test_two_entries_for_one_deployment_with_sort_keys_of_two_families(make: Callable[..., Updated]) -> None:
    updated = make()
    twin = updated.find(updated.booted).read_text().replace("sort-key", "# was sort-key") + "sort-key 0\n"
    (updated.entries / "bootc-composefs-1.conf").write_text(twin)
    for wanted in (updated.previous, updated.booted):
        assert updated.roll_back()[0] == 0
        assert updated.next_boot() == wanted
        named = [path for path in updated.entries.glob("*.conf") if f"composefs={updated.booted}" in path.read_text()]
        assert len(named) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"title Fedo"])
def test_torn_entry_files_stop_nothing(make: Callable[..., Updated], content: bytes) -> None:
    updated = make()
    (updated.entries / "bootc_fedora-41-0.conf").write_bytes(content)
    code, _, err = updated.roll_back()
    assert (code, "is empty or torn" in err) == (0, True)
    assert updated.next_boot() == updated.previous


def test_where_entries_are_missing_the_staged_set_counts_and_the_exchange_is_finished(
    make: Callable[..., Updated],
) -> None:
    updated = make()
    updated.entries.rename(updated.entries.with_name("entries.staged"))
    for wanted in (updated.previous, updated.booted):
        code, _, err = updated.roll_back()
        assert (code, updated.next_boot()) == (0, wanted), err
        assert not updated.entries.with_name("entries.staged").exists()
        assert len(list(updated.entries.glob("*.conf"))) == 2


def test_leftovers_of_an_interrupted_exchange_do_not_become_live(make: Callable[..., Updated]) -> None:
    updated = make()
    shutil.copytree(updated.entries, updated.entries.with_name("entries.staged"))
    (updated.entries / "bootc_zz-00000009-99.conf.new").write_bytes(b"half")
    assert updated.roll_back()[0] == 0
    assert updated.next_boot() == updated.previous
    assert not updated.entries.with_name("entries.staged").exists()


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
@pytest.mark.parametrize("boot_type", list(BootType))
@pytest.mark.parametrize("lost", ["absent", "empty"])
def test_a_target_that_would_not_boot_is_refused_and_the_order_stays(
    make: Callable[..., Updated], loader: Loader, boot_type: BootType, lost: str
) -> None:
    updated = make(loader, boot_type)
    area, _ = updated.host.kernel_area()
    path = area / f"bootc_composefs-{updated.previous}/vmlinuz"
    if boot_type is BootType.UKI:
        path = updated.host.esp / f"EFI/Linux/bootc/bootc_composefs-{updated.previous}.efi"
    assert path.stat().st_size
    path.unlink() if lost == "absent" else path.write_bytes(b"")
    before = flowkit.snapshot(updated.host.root)
    # systemd-boot does not show such an entry, so that without a name there is no target.
    for options in ((), ("--to", updated.previous)):
        code, out, err = updated.roll_back(*options)
        assert (code in (4, 7), out) == (True, ""), err
    assert flowkit.snapshot(updated.host.root) == before
    assert updated.next_boot() == updated.booted


@pytest.mark.parametrize("number", ["EROFS", "EIO"])
def test_a_boot_partition_that_cannot_be_written_keeps_its_order(
    make: Callable[..., Updated], monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    import errno

    updated = make()
    before = flowkit.snapshot(updated.host.boot_dir)
    code = getattr(errno, number)
    real = RealVolume.open_directory

    def refuse(self: RealVolume, path: bytes):  # type: ignore[no-untyped-def] # noqa: ANN202 - a directory, spoilt
        directory = real(self, path)
        if directory is not None:
            monkeypatch.setattr(type(directory), "write_new", lambda *_: (_ for _ in ()).throw(OSError(code, number)))
        return directory

    monkeypatch.setattr(RealVolume, "open_directory", refuse)
    exit_code, out, err = updated.roll_back()
    assert (exit_code, out, "building the new set of boot entries" in err) == (6, "", True)
    assert flowkit.snapshot(updated.host.boot_dir) == before
    assert updated.next_boot() == updated.booted


def test_an_entries_directory_that_cannot_be_read_is_an_error_and_nothing_changes(
    make: Callable[..., Updated], monkeypatch: pytest.MonkeyPatch
) -> None:
    updated = make()
    before = flowkit.snapshot(updated.host.boot_dir)
    real = os.listdir

    def refuse(path: object = ".") -> list[str]:
        if isinstance(path, int) and os.readlink(f"/proc/self/fd/{path}").endswith("loader/entries"):
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(os, "listdir", refuse)
    code, out, err = updated.roll_back()
    monkeypatch.undo()
    assert (code, out) == (6, ""), err
    assert err.startswith("error: reading the boot entries: Permission denied")
    assert flowkit.snapshot(updated.host.boot_dir) == before


@pytest.mark.parametrize("step", ["look", "compare", "commit", "tidy"])
def test_cancelled_at_any_step_it_has_rolled_back_wholly_or_not_at_all(make: Callable[..., Updated], step: str) -> None:
    updated = make()
    before = flowkit.snapshot(updated.host.boot_dir)

    async def run() -> bool:
        with trio.CancelScope() as scope:

            def cancel(event: object) -> None:
                if isinstance(event, events.StepStarted) and event.step == step:
                    scope.cancel()

            outcome = await rollback(updated.host.root, on_event=cancel)
            assert outcome.next_boot == updated.previous
            return True
        return False

    # The commit, once begun, and what follows it are not cut short.
    is_late = step in ("commit", "tidy")
    assert trio.run(run) == is_late
    assert updated.next_boot() == (updated.previous if is_late else updated.booted)
    assert (flowkit.snapshot(updated.host.boot_dir) == before) != is_late
    assert (updated.host.root / "run/reboot-required").exists() == is_late
