"""composefs/boot_files.py: what is read of what an entry names, how much of it, how often, and on which thread."""

from __future__ import annotations

import os
import threading
import tracemalloc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import flowkit
import pytest

from bootc_fast.boot.efi import firmware
from bootc_fast.composefs import boot_files, boot_snapshot
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import FileSystemError
from bootc_fast.machine.host import Host, open_host
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

SPARSE_BYTES = 3 << 30
MAX_MEMORY_BYTES = 8 << 20


def _stretch(look: boot_snapshot.BootSnapshot, path: bytes) -> None:
    fd = boot_snapshot.open_boot_file(look, path)
    try:
        os.truncate(f"/proc/self/fd/{fd}", SPARSE_BYTES)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
async def test_no_file_that_an_entry_names_is_read_past_its_limit(
    tmp_path: Path, loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    survey = await read_survey(open_host(case.root))
    assert survey.marker is not None
    async with AsyncExitStack() as stack:
        look = await boot_snapshot.open_boot_snapshot(survey, stack, loader=None, read_only=False)
        entry = look.find_entry(survey.marker.digest)
        assert entry is not None
        _stretch(look, entry.paths[0])
        tracemalloc.start()
        try:
            with pytest.raises(FileSystemError, match="longer than"):
                await boot_files.check_boot_files(survey, survey.marker.digest, look)
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < MAX_MEMORY_BYTES


async def test_a_look_reads_each_variable_once_and_never_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = flowkit.make_case(tmp_path / "h", Loader.SYSTEMD_BOOT, BootType.BLS)
    survey = await read_survey(open_host(case.root))
    read: list[tuple[str, int]] = []

    def read_variable(host: Host, name: str, guid: str) -> bytes | None:
        read.append((name, threading.get_ident()))
        return original(host, name, guid)

    original = firmware.read_variable
    monkeypatch.setattr(firmware, "read_variable", read_variable)
    async with AsyncExitStack() as stack:
        await boot_snapshot.open_boot_snapshot(survey, stack, loader=None, read_only=True)
    names = [name for name, _thread in read]
    assert "LoaderInfo" in names
    assert len(names) == len(set(names))
    assert threading.get_ident() not in {thread for _name, thread in read}
