"""version.py: tables with what the real tools say."""

from __future__ import annotations

import subprocess
from functools import cmp_to_key
from itertools import pairwise

import pytest
from unit.boot.fat_model import seeded

from bootc_fast.boot.loaders.version import compare_file_names, compare_rpm, compare_uapi

# Recorded: `LC_ALL=C sort -V`, and `ls -Av` in a directory with these files, coreutils 9.1.
SORT_V = [
    b".hidden.conf",
    b"..conf",
    b"0.conf",
    b"1.2.3~rc1.conf",
    b"1.2.3.conf",
    b"1.2.3-1.conf",
    b"5.14.0-70.el9.conf",
    b"5.14.0-362.fc38.conf",
    b"5.14.0-362.8.1.el9.conf",
    b"A.conf",
    b"a~.conf",
    b"a~1.conf",
    b"a.conf",
    b"a1.conf",
    b"a-1.conf",
    b"a.1.conf",
    b"bootc-composefs-0.conf",
    b"bootc-composefs-1.conf",
    b"bootc_4mlinux-1-1.conf",
    b"bootc_fedora-9-1.conf",
    b"bootc_fedora-10-1.conf",
    b"bootc_fedora-42-0.conf",
    b"bootc_fedora-42-1.conf",
    b"bootc_fedora-43-0.conf",
    b"bootc_zz-00000001-98.conf",
    b"bootc_zz-00000001-98+0.conf",
    b"bootc_zz-00000001-99.conf",
    b"bootc_zz-00000002-99.conf",
    b"bootd-00000001-99.conf",
    b"memtest.conf",
    b"x.conf",
    b"x+2-1.conf",
    b"x+3.conf",
    b"zz_bootc-00000001-99.conf",
]

# From RPM's own tests of rpmvercmp, without those of `^`, which GRUB does not know.
RPM = [
    ("1.0", "1.0", 0),
    ("1.0", "2.0", -1),
    ("2.0", "2.0.1", -1),
    ("2.0.1a", "2.0.1", 1),
    ("5.5p1", "5.5p2", -1),
    ("5.5p10", "5.5p1", 1),
    ("10xyz", "10.1xyz", -1),
    ("xyz10", "xyz10.1", -1),
    ("xyz.4", "xyz.4", 0),
    ("xyz.4", "8", -1),
    ("xyz.4", "2", -1),
    ("5.5p2", "5.6p1", -1),
    ("6.0.rc1", "6.0", 1),
    ("10b2", "10a1", 1),
    ("1.0a", "1.0aa", -1),
    ("10.0001", "10.0001", 0),
    ("10.0001", "10.1", 0),
    ("10.0001", "10.0039", -1),
    ("4.999.9", "5.0", -1),
    ("20101121", "20101122", -1),
    ("2_0", "2.0", 0),
    ("a", "a_", 0),
    ("1.0~rc1", "1.0~rc1", 0),
    ("1.0~rc1", "1.0", -1),
    ("1.0~rc1", "1.0~rc2", -1),
    ("1.0~rc1~git123", "1.0~rc1", -1),
    ("9", "10", -1),
    ("42", "43", -1),
]

# What Fedora's GRUB adds: `+` is above the end and below all else.
GRUB_PLUS = [
    ("5.14.0", "5.14.0+debug", -1),
    ("5.14.0+debug", "5.14.0.1", -1),
    ("5.14.0+debug", "5.14.0+debug", 0),
    ("5.14.0+a", "5.14.0+b", -1),
    ("1~a", "1+a", -1),
    ("bootc_fedora", "bootc_zz", -1),
    ("bootc", "bootc_zz", -1),
    ("bootc_4mlinux", "bootc_zz", 1),
    ("bootc_4mlinux", "bootd", -1),
]

# systemd's documentation of strverscmp_improved, oldest first.
UAPI = [
    "122.1",
    "123~rc1-1",
    "123",
    "123-a",
    "123-a.1",
    "123-1",
    "123-1.1",
    "123^post1",
    "123.a-1",
    "123.1-1",
    "123a-1",
    "124-1",
]


def test_file_names_sort_as_coreutils_recorded_them() -> None:
    for older, newer in pairwise(SORT_V):
        assert compare_file_names(older, newer) < 0, (older, newer)
        assert compare_file_names(newer, older) > 0, (older, newer)


def test_leading_zeros_count_for_nothing_in_file_names() -> None:
    assert compare_file_names(b"a01.conf", b"a1.conf") == 0
    assert compare_file_names(b"", b"a") < 0
    assert compare_file_names(b".", b"..") < 0
    assert compare_file_names(b"..", b".a") < 0


def test_file_names_sort_as_the_installed_coreutils_does_on_random_names() -> None:
    rng = seeded(7)
    for _ in range(60):
        names = sorted({bytes(rng.choice(b"abZ0129.-~_+") for _ in range(rng.randint(1, 9))) for _ in range(14)})
        command = ["sort", "-V"]
        real = subprocess.run(command, input=b"\n".join(names), capture_output=True, check=True, env={"LC_ALL": "C"})
        assert sorted(names, key=cmp_to_key(compare_file_names)) == real.stdout.splitlines()


@pytest.mark.parametrize(("left", "right", "expected"), RPM + GRUB_PLUS)
def test_rpm_versions_compare_as_in_fedoras_grub(left: str, right: str, expected: int) -> None:
    assert compare_rpm(left.encode(), right.encode()) == expected
    assert compare_rpm(right.encode(), left.encode()) == -expected


def test_uapi_versions_sort_as_systemd_documents() -> None:
    for i, older in enumerate(UAPI):
        for newer in UAPI[i + 1 :]:
            assert compare_uapi(older.encode(), newer.encode()) < 0, (older, newer)
            assert compare_uapi(newer.encode(), older.encode()) > 0, (older, newer)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(None, b"", 0), (None, b"1", -1), (b"00123", b"123", 0), (b"123_a", b"123a", 0), (b"1\xff2", b"1\xc3\xa42", 0)],
)
def test_uapi_versions_take_nothing_zeros_and_any_bytes(left: bytes | None, right: bytes, expected: int) -> None:
    assert compare_uapi(left, right) == expected
