"""The tests' own loaders agree with the tables of the loaders' orders."""

from __future__ import annotations

import itertools
from functools import cmp_to_key

import loader_emulation as emulation
import pytest
from unit.boot.loaders.test_order import FEDORA_ORDER, SYSTEMD_ORDER, UPSTREAM_ORDER
from unit.boot.loaders.test_version import GRUB_PLUS, RPM, SORT_V, UAPI


@pytest.mark.parametrize("entries", SYSTEMD_ORDER, ids=lambda entries: entries[0].label + "…")
def test_systemd_boot(entries: list[object]) -> None:
    made = [emulation.make_entry(entry.label, entry.raw) for entry in entries]  # type: ignore[attr-defined]
    for shuffled in itertools.permutations(made):
        assert sorted(shuffled, key=cmp_to_key(emulation.compare_systemd)) == made


@pytest.mark.parametrize(
    ("names", "compare"),
    [
        *((names, emulation.compare_fedora) for names in FEDORA_ORDER),
        *((names, emulation.compare_upstream) for names in UPSTREAM_ORDER),
    ],
)
def test_grub(names: list[str], compare: object) -> None:
    made = [emulation.make_entry(name, b"linux /k\n") for name in names]
    backwards = made[::-1]
    assert sorted(backwards, key=cmp_to_key(compare)) == made  # type: ignore[arg-type]


@pytest.mark.parametrize(("one", "two", "order"), RPM + GRUB_PLUS)
def test_rpm_versions(one: str, two: str, order: int) -> None:
    assert emulation.compare_rpm(one, two) == order
    assert emulation.compare_rpm(two, one) == -order


def test_file_names() -> None:
    names = [name.decode() for name in SORT_V]
    backwards = names[::-1]
    assert sorted(backwards, key=cmp_to_key(emulation.compare_file_names)) == names


def test_uapi_versions() -> None:
    backwards = UAPI[::-1]
    assert sorted(backwards, key=cmp_to_key(emulation.compare_uapi)) == UAPI
