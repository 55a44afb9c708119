"""journal.py: native fields to the journal's socket, lines to the service manager, and never an error."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from bootc_fast import message_ids
from bootc_fast.machine.host import Host, open_host
from bootc_fast.machine.journal import extend_timeout, notify_status, send_journal

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return open_host(tmp_path)


@pytest.fixture
def journal(host: Host) -> Generator[socket.socket]:
    host.journal_socket.parent.mkdir(parents=True)
    with _listen(host.journal_socket) as receiver:
        yield receiver


def _listen(path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here = os.open(path.parent, os.O_RDONLY)
    try:
        receiver.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)
    receiver.settimeout(5)
    return receiver


def _fields(data: bytes) -> dict[str, bytes]:
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        found[name.decode()] = rest[8 : 8 + length]
        data = rest[8 + length + 1 :]
    return found


def test_a_message_carries_its_id_and_native_fields_byte_for_byte(host: Host, journal: socket.socket) -> None:
    fields = {"BOOTC_FAST_OPERATION": "finalize", "BOOTC_FAST_X": "a\nb\udcff", "BOOTC_FAST_NONE": None, "COUNT": 3}
    send_journal(host, "done", message_id=message_ids.FINALIZE_DONE, fields=fields)
    got = _fields(journal.recv(1 << 16))
    assert got["MESSAGE"] == b"done"
    assert got["MESSAGE_ID"] == message_ids.FINALIZE_DONE.encode()
    assert (got["BOOTC_FAST_X"], got["COUNT"]) == (b"a\nb\xff", b"3")
    assert "BOOTC_FAST_NONE" not in got


def test_a_message_too_long_for_a_datagram_goes_as_a_sealed_memory_file(host: Host, journal: socket.socket) -> None:
    send_journal(host, "x" * 2_000_000, message_id=message_ids.FINALIZE_FAILED, fields={})
    _, ancillary, _, _ = journal.recvmsg(1, socket.CMSG_SPACE(4))
    descriptors = array.array("i")
    descriptors.frombytes(ancillary[0][2])
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        assert _fields(file.read())["MESSAGE"] == b"x" * 2_000_000


def test_without_a_journal_nothing_happens(host: Host) -> None:
    send_journal(host, "done", message_id=message_ids.FINALIZE_DONE, fields={})


def test_a_journal_that_does_not_read_stops_nothing(host: Host, journal: socket.socket) -> None:
    here = os.open(host.journal_socket.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
        filler.settimeout(0)
        while True:
            filler.sendto(b"x", f"/proc/self/fd/{here}/socket")
    os.close(here)
    send_journal(host, "x", message_id=message_ids.FINALIZE_DONE, fields={})


def test_a_socket_outside_the_root_is_not_used(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    host = Host(root=tmp_path / "dir", is_live=False)
    host.journal_socket.parent.mkdir(parents=True)
    with _listen(outside / "socket") as receiver:
        host.journal_socket.symlink_to(outside / "socket")
        send_journal(host, "done", message_id=message_ids.FINALIZE_DONE, fields={})
        receiver.settimeout(0)
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


def test_message_ids_are_32_hex_digits_and_differ() -> None:
    ids = [value for name, value in vars(message_ids).items() if name.isupper() and isinstance(value, str)]
    assert len(ids) == len(set(ids)) > 0
    assert all(len(value) == 32 and set(value) <= set("0123456789abcdef") for value in ids)


def test_the_service_manager_gets_status_and_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _listen(tmp_path / "notify") as receiver:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify_status("merging\n/etc")
        extend_timeout(30)
        assert receiver.recv(4096) == b"STATUS=merging /etc"
        assert receiver.recv(4096) == b"EXTEND_TIMEOUT_USEC=30000000"


def test_an_abstract_socket_of_the_service_manager_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"bootc-fast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify_status("x")
        assert receiver.recv(16) == b"STATUS=x"


@pytest.mark.parametrize("address", ["", "/no/such/socket", "vsock:2:1"])
def test_without_a_service_manager_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_status("x")
    extend_timeout(1)
