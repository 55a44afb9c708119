"""aliases.py: what a cut left with a short name alone is collected if it was ours and nobody can need it."""

from __future__ import annotations

import pytest
from unit.boot.fat_model import FatModel, Slot, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, bls_text, find_crossed, uki_text

from bootc_fast.boot.entries.aliases import parse_alias
from bootc_fast.boot.entries.garbage import collect_volumes, find_garbage, find_lost_names
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.types import Loader, VerityDigest

GONE = VerityDigest("7f03d9" + "c" * 58)
OTHER = VerityDigest("51e" * 42 + "51")
UKIS, KERNELS = b"/EFI/Linux/bootc", b"/EFI/Linux"
TEXT = {b"/loader/entries/bootc_x-2-1.conf": bls_text(A, "2", "bootc-x-0")}


def _volume(files: dict[bytes, bytes], filled: int = 0) -> FatVolume:
    model = FatModel(clusters=200, fat_entries=50)
    volume = FatVolume(model)
    for path in (UKIS, KERNELS):
        volume.make_directory(path)
        for number in range(filled):
            volume.put(path + b"/PAD%d" % number, b"")
    kernels = {KERNELS + f"/bootc_composefs-{A}/{name}".encode(): b"k" for name in ("vmlinuz", "initrd")}
    for path, data in {**TEXT, **kernels, **files}.items():
        volume.put(path, data)
    model.start()
    return volume


def _cut(volume: FatVolume, path: bytes, *, left: int) -> FatVolume:
    again = FatVolume(volume.model.cut_removal(path, left=left))
    again.model.start()
    return again


def _forget(volume: FatVolume) -> FatVolume:
    """Let other names have had the places that are free."""
    model = volume.model
    for key, sector in model.cache.items():
        if key[0] == "data" and isinstance(sector, tuple):
            model.cache[key] = tuple(Slot("free") if slot.kind == "deleted" else slot for slot in sector)
    again = FatVolume(model.mount(model.cache))
    again.model.start()
    return again


def _names(volume: FatVolume, path: bytes) -> set[bytes]:
    directory = volume.open_directory(path)
    assert directory is not None
    return set(directory.list_names())


def _collect(volume: FatVolume, *known: VerityDigest) -> tuple[str, ...]:
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    outcome = collect_volumes(volume, volume, menu, known=known)
    assert outcome.warnings == ()
    return outcome.removed


@pytest.mark.parametrize("filled", [0, 3, 8, 13])
@pytest.mark.parametrize(
    ("name", "below"),
    [
        (UKIS + f"/bootc_composefs-{GONE}.efi".encode(), None),
        (UKIS + f"/{OTHER}.efi".encode(), None),
        (UKIS + f"/bootc_composefs-{GONE}.efi.extra.d".encode(), (b"/1.addon.efi",)),
        (KERNELS + f"/bootc_composefs-{OTHER}".encode(), (b"/vmlinuz", b"/initrd")),
        (KERNELS + f"/{GONE}".encode(), (b"/vmlinuz", b"/initrd")),
        (KERNELS + f"/bootc-fast-gone-{GONE}".encode(), (b"/vmlinuz", b"/initrd")),
    ],
    ids=["uki", "uki-plain", "addons", "kernel", "kernel-plain", "gone"],
)
def test_whatever_a_cut_leaves_of_a_removal_the_next_one_takes(
    name: bytes, below: tuple[bytes, ...] | None, filled: int
) -> None:
    volume = _volume({name + one: b"x" * 1500 for one in below or (b"",)}, filled)
    head, _slash, own = name.rpartition(b"/")
    expected = _names(volume, head) - {own}
    model = volume.model
    is_in_two_sectors = len({cluster for cluster, _index in model.find(name).slots}) > 1
    assert len(_collect(volume, A)) == 1
    lost = 0
    for disk in model.crash_states(seeded(filled), subsets=6):
        again = FatVolume(model.mount(disk))
        left = _names(again, head) - expected
        lost += left not in (set(), {own})
        again.model.start()
        _collect(again, A)
        assert _names(again, head) == expected, left
        assert find_crossed(again.model.mount(again.model.cache)) == []
    assert bool(lost) == is_in_two_sectors


@pytest.mark.parametrize("is_readable", [True, False])
@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_short_name_is_told_ahead_and_where_the_fat_cannot_be_read_stays(left: int, *, is_readable: bool) -> None:
    volume = _cut(
        _volume({UKIS + f"/bootc_composefs-{GONE}.efi".encode(): b"x" * 1500}),
        UKIS + f"/bootc_composefs-{GONE}.efi".encode(),
        left=left,
    )
    assert _names(volume, UKIS) == {b"BOOTC_~1.EFI"}
    volume.is_fat_readable = is_readable
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    found = find_garbage(volume, menu, known={A})
    assert found == ({UKIS.lstrip(b"/") + b"/BOOTC_~1.EFI": 1536} if is_readable else {})
    assert bool(_collect(volume, A)) == is_readable
    assert _names(volume, UKIS) == (set() if is_readable else {b"BOOTC_~1.EFI"})


@pytest.mark.parametrize(
    "files",
    [
        {b"/loader/entries/mine.conf": b"title x\nefi /efi/linux/BOOTC/Bootc_~1.efi\n"},
        {b"/grub2/custom.cfg": b"chainloader /EFI/Linux/bootc/bootc_~1.EFI\n"},
        {b"/loader/entries.staged/bootc_x-3-1.conf": uki_text(GONE, "3", "bootc-x-0")},
    ],
    ids=["entry", "text", "an entry that does not find its file"],
)
def test_a_short_name_that_anything_names_or_may_mean_stays(files: dict[bytes, bytes]) -> None:
    path = UKIS + f"/bootc_composefs-{GONE}.efi".encode()
    volume = _cut(_volume({**files, path: b"x"}), path, left=2)
    assert _collect(volume, A) == ()
    assert _names(volume, UKIS) == {b"BOOTC_~1.EFI"}


def test_a_short_name_stays_while_a_deployment_that_it_may_be_has_no_file_and_no_entry() -> None:
    path = UKIS + f"/bootc_composefs-{GONE}.efi".encode()
    volume = _cut(_volume({path: b"x"}), path, left=3)
    assert _collect(volume, A, GONE) == ()
    # One of whose digest another beginning is left cannot be meant.
    assert _collect(volume, A, OTHER) == ("/EFI/Linux/bootc/BOOTC_~1.EFI",)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (b"facade-rescue-system.efi", 1),
        (b"bootc_recovery-image.efi", 1),
        (b"bootc_composefsX" + b"0" * 64 + b".efi", 2),
        # systemd's kernel-install names what it installs after the machine's id.
        (b"4a5b6c" * 5 + b"4a-6.12.41-amd64.efi", 1),
        (b"4a5b6c" * 5 + b"4a-6.12.41-amd64.efi", 2),
        (b"4a5b6c" * 5 + b"4a-6.12.41-amd64.efi", 3),
        (b"decade0000000-not-hexadecimal.efi", 2),
    ],
)
def test_foreign_names_that_look_alike_stay_whole_or_cut(name: bytes, left: int) -> None:
    path = UKIS + b"/" + name
    volume = _volume({path: b"foreign"})
    assert _collect(volume, A) == ()
    assert _names(volume, UKIS) == {name}
    cut = _cut(volume, path, left=left)
    (alias,) = _names(cut, UKIS)
    assert b"~1.EFI" in alias
    assert _collect(cut, A) == ()
    assert _names(cut, UKIS) == {alias}


def test_all_of_them_are_told_with_what_would_go() -> None:
    mine, kernel = UKIS + b"/bootc_recovery-image.efi", KERNELS + f"/bootc_composefs-{GONE}".encode()
    volume = _volume({mine: b"foreign", kernel + b"/vmlinuz": b"x", UKIS + b"/facade-rescue-system.efi": b"whole"})
    volume = _cut(_cut(volume, mine, left=1), kernel, left=1)
    menu = read_volumes(volume, volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN)
    written = len(volume.model.log)
    # A's own directory has the first number.
    expected = {b"EFI/Linux/bootc/BOOTC_~1.EFI": False, b"EFI/Linux/BOOTC_~2": True}
    assert find_lost_names(volume, volume, menu, known={A}) == expected
    assert len(volume.model.log) == written


def test_six_hexadecimal_digits_alone_say_nothing() -> None:
    """A program without long names can have made ``FACADE~1.EFI``: nothing stands before it."""
    path = UKIS + b"/facade-rescue-system.efi"
    volume = _forget(_cut(_volume({path: b"foreign"}), path, left=0))
    assert _names(volume, UKIS) == {b"FACADE~1.EFI"}
    assert _collect(volume, A) == ()
    assert parse_alias("FACADE~1.EFI", "", is_for_ukis=True) is not None
    path = UKIS + f"/bootc_composefs-{GONE}.efi".encode()
    volume = _forget(_cut(_volume({path: b"x"}), path, left=0))
    assert _collect(volume, A) == ("/EFI/Linux/bootc/BOOTC_~1.EFI",)


@pytest.mark.parametrize(
    ("name", "lost", "is_for_ukis", "digest"),
    [
        ("BO3F1A~4.EFI", "bootc_composefs-7f03d9ccc", True, "7f03d9ccc"),
        ("7F2B9C~2", "7f03d9" + "c" * 33, False, "7f03d9" + "c" * 33),
        ("7F2B9C~2", "7f03d9" + "c" * 20, False, None),
        ("BOOTC_~9.STA", f"bootc_composefs-{GONE}.efi.sta", True, GONE),
        ("7F03D9~1.D", f"{GONE}.efi.extra.d", True, GONE),
        ("BOOTC-~1.GON", "bootc-fast-go", True, ""),
        ("BO3F1A~4.EFI", "", True, None),
        ("BOOTC_~1.EFI", f"bootc_composefs-{GONE}.img", True, None),
        ("BOOTC_~1.EFI", "bootc_composefs-7f03.efi", True, None),
    ],
)
def test_reads_what_is_left_of_a_name(name: str, lost: str, digest: str | None, *, is_for_ukis: bool) -> None:
    alias = parse_alias(name, lost, is_for_ukis=is_for_ukis)
    assert alias is not None
    assert (alias.digest if alias.is_ours else None) == digest
    assert parse_alias(name, lost, is_for_ukis=not is_for_ukis) is None


@pytest.mark.parametrize(
    "name", ["BOOTC_~0.EFI", "BOOTC~1.EFI", "BOOTC_~1.IMG", "GRUBX6~1.EFI", "BOOTC_CO.EFI", "VMLINUZ"]
)
def test_other_names_are_none(name: str) -> None:
    assert parse_alias(name, "bootc_compose", is_for_ukis="." in name) is None
