"""boot/firmware.py: EFI variables (spec host.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hosts import make_host
from hypothesis import given
from hypothesis import strategies as st

from bootc_fast.boot.efi import firmware
from bootc_fast.errors import BootEntryError, InvalidStateError

if TYPE_CHECKING:
    from pathlib import Path

    from bootc_fast.machine.host import Host


def set_variable(host: Host, name: str, value: bytes, guid: str = firmware.LOADER_GUID) -> None:
    host.make_directory(host.efivars)
    (host.efivars / f"{name}-{guid}").write_bytes(b"\7\0\0\0" + value)


def utf16(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


def test_reads_what_the_loader_left(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    set_variable(host, "LoaderInfo", utf16("systemd-boot 257.9-1"))
    set_variable(host, "LoaderDevicePartUUID", utf16("0C5B9A3E-51C8-4E5F-9A3E-6F1D2A7B8C9D"))
    set_variable(host, "LoaderEntryDefault", utf16("a.conf"))
    set_variable(host, "LoaderEntryOneShot", "b.conf".encode("utf-16-le"))
    set_variable(host, "LoaderEntrySelected", utf16("ü😀.conf") + b"junk")
    set_variable(host, "SecureBoot", b"\1", firmware.GLOBAL_GUID)
    assert firmware.read_loader_variables(host) == firmware.LoaderVariables(
        info="systemd-boot 257.9-1",
        device_part_uuid="0c5b9a3e-51c8-4e5f-9a3e-6f1d2a7b8c9d",
        entry_default="a.conf",
        entry_oneshot="b.conf",
        entry_selected="ü😀.conf",
        secure_boot=True,
    )


def test_a_host_without_efi_has_no_variables(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    assert firmware.read_loader_variables(host) == firmware.LoaderVariables()
    assert not firmware.read_secure_boot_state(host).enabled


@pytest.mark.parametrize("value", [b"", b"\0\0", b"a", b"a\0b", b"\x00\xd8\0\0"])
def test_malformed_loader_variables_are_an_invalid_state_with_a_hint(tmp_path: Path, value: bytes) -> None:
    host = make_host(tmp_path)
    set_variable(host, "LoaderInfo", value)
    with pytest.raises(InvalidStateError, match="LoaderInfo") as caught:
        firmware.read_loader_variables(host)
    assert caught.value.hint is not None


@pytest.mark.parametrize("data", [b"", b"\7\0\0"])
def test_a_variable_shorter_than_its_attributes_is_an_invalid_state(tmp_path: Path, data: bytes) -> None:
    host = make_host(tmp_path)
    set_variable(host, "LoaderInfo", b"")
    (host.efivars / f"LoaderInfo-{firmware.LOADER_GUID}").write_bytes(data)
    with pytest.raises(InvalidStateError, match="attributes"):
        firmware.read_loader_variables(host)


def test_a_part_uuid_that_is_none_is_an_invalid_state(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    set_variable(host, "LoaderDevicePartUUID", utf16("../../dev/sda"))
    with pytest.raises(InvalidStateError, match="no UUID"):
        firmware.read_loader_variables(host)


@pytest.mark.parametrize("value", [b"", b"\2", b"\1\1"])
def test_secure_boot_is_on_or_off(tmp_path: Path, value: bytes) -> None:
    host = make_host(tmp_path)
    set_variable(host, "SecureBoot", value, firmware.GLOBAL_GUID)
    with pytest.raises(InvalidStateError, match="SecureBoot"):
        firmware.read_secure_boot_state(host)


def test_a_variable_longer_than_firmware_can_store_is_an_invalid_state(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    set_variable(host, "LoaderInfo", bytes(firmware.MAX_VARIABLE_BYTES))
    with pytest.raises(InvalidStateError, match="longer than"):
        firmware.read_loader_variables(host)


def test_the_parts_of_shims_lists_are_joined(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    set_variable(host, "SecureBoot", b"\1", firmware.GLOBAL_GUID)
    set_variable(host, "db", b"db", firmware.SECURITY_GUID)
    set_variable(host, "dbx", b"dbx", firmware.SECURITY_GUID)
    for name, value in (("MokListRT", b"a"), ("MokListRT1", b"b"), ("MokListRT3", b"d"), ("MokListXRT", b"x")):
        set_variable(host, name, value, firmware.SHIM_GUID)
    expected = firmware.SecureBootState(enabled=True, db=b"db", dbx=b"dbx", mok=b"ab", mokx=b"x")
    assert firmware.read_secure_boot_state(host) == expected


def test_shims_switches_are_read_and_odd_ones_count_as_off(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    set_variable(host, "SecureBoot", b"\1", firmware.GLOBAL_GUID)
    assert not firmware.read_secure_boot_state(host).has_shim
    for name, value in (("MokListRT", b"a"), ("MokSBStateRT", b"\1"), ("MokIgnoreDB", b"\1"), ("MokPolicyRT", b"\3")):
        set_variable(host, name, value, firmware.SHIM_GUID)
    set_variable(host, "SbatLevelRT", b"sbat,1,2021030218\n", firmware.SHIM_GUID)
    found = firmware.read_secure_boot_state(host)
    assert (found.has_shim, found.is_validation_off, found.ignores_db, found.requires_nx) == (True,) * 4
    assert found.sbat_level == b"sbat,1,2021030218\n"
    for name, value in (("MokSBStateRT", b"\1\0"), ("MokIgnoreDB", b"\0"), ("MokPolicyRT", b"\2")):
        set_variable(host, name, value, firmware.SHIM_GUID)
    found = firmware.read_secure_boot_state(host)
    assert (found.is_validation_off, found.ignores_db, found.requires_nx) == (False,) * 3


@given(st.binary(max_size=40))
def test_no_variable_does_anything_but_parse_or_be_refused(value: bytes) -> None:
    try:
        text = firmware.parse_utf16(value, what="test")
    except InvalidStateError:
        return
    assert text
    assert "\0" not in text


def test_a_loader_variable_is_written_read_back_and_removed(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.make_directory(host.efivars)
    firmware.write_loader_variable(host, "LoaderEntryDefault", "bootc_ä.conf")
    path = firmware.variable_path(host, "LoaderEntryDefault", firmware.LOADER_GUID)
    assert path.read_bytes() == b"\7\0\0\0" + utf16("bootc_ä.conf")
    assert firmware.read_loader_variables(host).entry_default == "bootc_ä.conf"
    firmware.write_loader_variable(host, "LoaderEntryDefault", None)
    firmware.write_loader_variable(host, "LoaderEntryDefault", None)
    assert firmware.read_loader_variables(host).entry_default is None


def test_a_variable_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BootEntryError, match="LoaderEntryDefault: writing"):
        firmware.write_loader_variable(make_host(tmp_path), "LoaderEntryDefault", "x")
