"""What the judge says of GRUB's own files: torn, lost, counted; and that a start does not change what is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from powercut.grub import CUSTOM, ENVIRONMENT, DamagedError, find_started, judge_files
from powercut.hosts import ADMINS_VARIABLE

from bootc_fast.boot.counting.grub_script import SCRIPT, add_block, render_script
from bootc_fast.boot.loaders.grub_trial import ALLOWED, FALLBACK, PLACE, TRIAL, TRIES
from bootc_fast.boot.loaders.grubenv import change_grubenv
from bootc_fast.lab.grub import write_grub_files

if TYPE_CHECKING:
    from pathlib import Path

_MENU = 'menuentry "New: (a)" {\nchainloader /a\n}\nmenuentry "Old: (b)" {\nchainloader /b\n}\n'
_ADMIN = b"set color_normal=white/blue\n"
_BLOCK = add_block(_ADMIN).removeprefix(_ADMIN)


def _files(tmp_path: Path, tries: bytes | None) -> dict[str, bytes | None]:
    write_grub_files(tmp_path)
    variables = {TRIAL: b"New: (a)", FALLBACK: b"Old: (b)", PLACE: b"1", TRIES: tries, ALLOWED: b"3"}
    environment = b"# GRUB Environment Block\n" + ADMINS_VARIABLE.encode()
    return {
        "grub2/grub.cfg": (tmp_path / "grub.cfg").read_bytes(),
        "grub2/user.cfg": _MENU.encode(),
        CUSTOM: add_block(_ADMIN),
        f"grub2/{SCRIPT.decode()}": render_script(3),
        ENVIRONMENT: change_grubenv(environment.ljust(1024, b"#"), {} if tries is None else variables),
    }


def _texts(files: dict[str, bytes | None]) -> dict[str, str]:
    return {CUSTOM: _ADMIN.decode(), ENVIRONMENT: (files[ENVIRONMENT] or b"").decode()}


@pytest.mark.parametrize(
    ("tries", "boots"), [(b"3", b"New"), (b"1", b"New"), (b"0", b"Old"), (b"", b"Old"), (None, b"New")]
)
def test_what_is_counted_chooses(tmp_path: Path, tries: bytes | None, boots: bytes) -> None:
    files = _files(tmp_path, tries)
    before = dict(files)
    started = find_started(files)
    assert started is not None
    assert started.startswith(b'menuentry "' + boots)
    assert files == before
    assert not judge_files(files, _texts(files))


@pytest.mark.parametrize(
    ("path", "raw", "problem"),
    [
        (CUSTOM, _ADMIN + _BLOCK[:40], "custom.cfg is not an admin's text and our block"),
        (CUSTOM, _BLOCK, "custom.cfg is not an admin's text and our block"),
        (CUSTOM, None, "custom.cfg is not an admin's text and our block"),
        (ENVIRONMENT, None, "grubenv is no environment block"),
        (ENVIRONMENT, bytes(1024), "grubenv is no environment block"),
        (ENVIRONMENT, b"# GRUB Environment Block\nx=1\n", "grubenv is no environment block"),
        (ENVIRONMENT, b"# GRUB Environment Block\nx=1".ljust(1024, b"#"), "grubenv is no environment block"),
        (ENVIRONMENT, b"# GRUB Environment Block\nx\0=1\n".ljust(1024, b"#"), "grubenv: a variable is torn"),
        (ENVIRONMENT, b"# GRUB Environment Block\nx=1\n".ljust(1024, b"#"), "grubenv: an admin's variable is lost"),
    ],
)
def test_what_a_cut_may_leave_of_them_is_a_problem(tmp_path: Path, path: str, raw: bytes | None, problem: str) -> None:
    files = _files(tmp_path, b"3")
    assert judge_files({**files, path: raw}, _texts(files)) == [problem]


def test_a_script_that_is_torn_stops_grub(tmp_path: Path) -> None:
    files = _files(tmp_path, b"3")
    torn = render_script(3)[:512].ljust(1024, b"\0")
    with pytest.raises(DamagedError):
        find_started({**files, f"grub2/{SCRIPT.decode()}": torn})
