"""mountinfo.py: whether a file system is writable is its own flag, not that of one of its mounts."""

from __future__ import annotations

import pytest

from bootc_fast.machine.mountinfo import find_writable, parse_mountinfo

LINE = "%d 1 %s / %s %s,relatime shared:1 - vfat /dev/vda1 %s,errors=remount-ro\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        ([("8:2", "/boot", "rw", "rw")], None),
        ([("8:1", "/boot", "rw", "rw")], True),
        # bootc mounts /boot read-only over a file system that is writable.
        ([("8:1", "/boot", "ro", "rw")], True),
        # What the kernel does on an error.
        ([("8:1", "/boot", "rw", "ro")], False),
        ([("8:1", "/boot", "ro", "ro"), ("8:2", "/efi", "rw", "rw")], False),
    ],
)
def test_a_file_system_is_writable_by_its_own_flag(
    lines: list[tuple[str, str, str, str]],
    expected: bool | None,  # noqa: FBT001 a case
) -> None:
    text = "".join(LINE % (number, *fields) for number, fields in enumerate(lines, 20))
    assert find_writable(parse_mountinfo(text.encode()), "8:1") is expected
