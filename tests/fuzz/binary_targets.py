"""Binary formats: signed programs, signature lists, EFI variables, split streams, file systems."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.target import Target, split

from bootc_fast import _core
from bootc_fast.boot.area import fat, fat_check, fat_slots
from bootc_fast.boot.efi import edk2, firmware, pe, shim, siglist, uki
from bootc_fast.composefs import splitstream
from bootc_fast.errors import (
    BootEntryError,
    FatFormatError,
    ImageFormatError,
    InvalidStateError,
    SignatureError,
    UsageError,
)
from bootc_fast.machine.host import Host
from bootc_fast.report.finalize import read_outcome, write_outcome
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Generator

_STRANGER = VerityDigest("cd" * 32)
"""A deployment that nothing names."""


def _make_pe() -> bytes:
    """A PE32+ file of two sections and one empty signature."""
    sections = ((b".cmdline", b"composefs=" + b"ab" * 32), (b".osrel\0\0", b"ID=fedora\n"))
    headers = 0x40 + 24 + 240 + 40 * len(sections)
    table, bodies, at = b"", b"", headers
    for name, body in sections:
        table += name + struct.pack("<6IHHI", len(body), at, len(body), at, 0, 0, 0, 0, 0x40000040)[:32]
        bodies, at = bodies + body, at + len(body)
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 0, 0, 0, 0, 0, 0) + struct.pack("<QII", 0, 16, 1)
    optional += b"\0" * 16 + struct.pack("<IIIHH", 0x1000, headers, 0, 10, 0) + b"\0" * 36 + struct.pack("<I", 16)
    directories = bytearray(128)
    struct.pack_into("<II", directories, 4 * 8, at, 16)
    optional = (optional[:112].ljust(112, b"\0") + directories)[:240]
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    return dos + coff + optional + table + bodies + struct.pack("<IHH8s", 16, 0x0200, 2, b"\x30\0")


def _check_pe(data: bytes) -> None:
    try:
        found = pe.parse_pe(data)
        for section in found.sections:
            parts = found.find_parts(section.name)
            assert parts is not None
            assert sum(length for _, length in parts) <= 2 * max(len(data), 1 << 20)
    except BootEntryError:
        return
    for judge in (edk2.judge, shim.judge):
        # Nobody is trusted.
        with contextlib.suppress(BootEntryError):
            assert not judge(found, firmware.SecureBootState(enabled=True), known=frozenset()).is_accepted
    if edk2.find_header_fault(found) is not None:
        return
    try:
        digest = edk2.hash_image(found, "sha256")
    except (BootEntryError, SignatureError):
        return
    # The checksum is not hashed, so that whoever signs may set it.
    at = found.image.checksum_offset
    other = pe.parse_pe(data[:at] + b"\xaa\xbb\xcc\xdd" + data[at + 4 :])
    assert edk2.hash_image(other, "sha256") == digest


def _check_uki(data: bytes) -> None:
    try:
        found = uki.parse_uki(data)
        digests = uki.list_digests(found)
    except BootEntryError:
        return
    assert all(re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", digest) for digest in digests)
    with contextlib.suppress(BootEntryError):
        uki.check_uki(found, digest=digests[0] if digests else _STRANGER)


_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le


def _make_list(kind: bytes, entries: list[bytes]) -> bytes:
    body = b"".join(b"\0" * 16 + entry for entry in entries)
    return kind + struct.pack("<III", 28 + len(body), 0, len(body) // len(entries)) + body


def _check_key_lists(data: bytes) -> None:
    parsed = []
    for part in split(data, 2):
        try:
            parsed.append(siglist.parse_key_list(part, what="db"))
        except InvalidStateError:
            return
    first, second = parsed
    both = siglist.parse_key_list(b"".join(split(data, 2)), what="db")
    assert both.lists == first.lists + second.lists


def _make_stream(*, is_old: bool) -> bytes:
    digest = b"\xab" * 64
    header = struct.Struct("<QQH11sBBB" if is_old else "<11sBHBBQQ")
    start, end = header.size, header.size + 80
    numbers = (end, end, end, end + 64, 0, 0, 0, 0)
    info = struct.pack("<8Q8sQ", *numbers, b"ocimanif", 64)
    fields = (start, end, 0, b"SplitStream", 0, 2, 12) if is_old else (b"SplitStream", 0, 0, 2, 12, start, end)
    return header.pack(*fields) + info + digest


def _check_stream(data: bytes) -> None:
    try:
        name = splitstream.parse_object_name(data, b"ocimanif", what="x")
    except InvalidStateError:
        return
    assert len(name) in (64, 128)
    assert bytes.fromhex(name) in data


@functools.cache
def _host() -> Host:
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    host = Host(root, is_live=False)
    for directory in (host.efivars, host.last_finalize.parent):
        directory.mkdir(parents=True, exist_ok=True)
    return host


_VARIABLES = (
    ("LoaderInfo", firmware.LOADER_GUID), ("LoaderDevicePartUUID", firmware.LOADER_GUID),
    ("LoaderEntries", firmware.LOADER_GUID), ("LoaderEntryDefault", firmware.LOADER_GUID),
    ("LoaderFeatures", firmware.LOADER_GUID), ("SecureBoot", firmware.GLOBAL_GUID), ("db", firmware.SECURITY_GUID),
    ("MokListRT", firmware.SHIM_GUID), ("MokListRT1", firmware.SHIM_GUID),
)  # fmt: skip


def _check_variables(data: bytes) -> None:
    host = _host()
    for (name, guid), value in zip(_VARIABLES, split(data, len(_VARIABLES)), strict=True):
        path = firmware.variable_path(host, name, guid)
        if value:
            path.write_bytes(value)
        else:
            path.unlink(missing_ok=True)
    try:
        found = firmware.read_loader_variables(host)
        state = firmware.read_secure_boot_state(host)
    except InvalidStateError:
        return
    assert found.secure_boot == state.enabled
    assert found.device_part_uuid is None or str(uuid.UUID(found.device_part_uuid)) == found.device_part_uuid
    assert all(found.shown)
    assert not any("\0" in (text or "") for text in (found.info, found.entry_default, *found.shown))
    if found.entry_default is not None and found.entry_default.isascii():
        firmware.write_loader_variable(host, "LoaderEntryDefault", found.entry_default)
        assert firmware.read_loader_variables(host).entry_default == found.entry_default


def _check_record(data: bytes) -> None:
    host = _host()
    host.last_finalize.write_bytes(data)
    try:
        found = read_outcome(host)
    except InvalidStateError:
        return
    assert found is not None
    write_outcome(host, found)
    assert read_outcome(host) == found


@contextlib.contextmanager
def _patched(fd: int, data: bytes) -> Generator[None]:
    """Lay patches over a file, each of a 4-byte offset, a length and bytes; undone at the end."""
    size, undo, at = os.fstat(fd).st_size, [], 0
    while at + 5 <= len(data):
        offset, length = int.from_bytes(data[at : at + 4], "little") % size, data[at + 4] % 33
        patch = data[at + 5 : at + 5 + length]
        undo.append((offset, os.pread(fd, len(patch), offset)))
        os.pwrite(fd, patch, offset)
        at += 5 + length
    try:
        yield
    finally:
        for offset, old in reversed(undo):
            os.pwrite(fd, old, offset)
        os.ftruncate(fd, size)


@functools.cache
def _volume(bits: int) -> int:
    """A small FAT volume with directories, a long name and a file of several clusters."""
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    sectors = {12: 240, 16: 8400, 32: 67000}[bits]
    with tempfile.TemporaryDirectory() as work:
        image, source = Path(work, "fat"), Path(work, "source")
        source.write_bytes(b"x" * 3000)
        make = ["mkfs.vfat", "-C", "-F", str(bits), "-s", "1", "-i", "B007FA57", str(image), str(sectors // 2)]
        subprocess.run(make, env=environment, check=True, capture_output=True)
        for argv in (
            ["mmd", "-i", image, "::loader", "::loader/entries"],
            ["mcopy", "-i", image, source, "::loader/entries/bootc_fedora-42-1.conf"],
            ["mcopy", "-i", image, source, "::KERNEL.EFI"],
        ):
            subprocess.run(argv, env=environment, check=True, capture_output=True)
        fd = os.memfd_create(f"fat{bits}")
        os.write(fd, image.read_bytes())
        return fd


def _check_fat(bits: int, data: bytes) -> None:
    fd = _volume(bits)
    with _patched(fd, data):
        try:
            reader = fat.FatReader(fd)
            # All clusters of a FAT32, of which there are 65,525 at least, take a second: its chains are followed only.
            findings = fat_check.check_volume(reader) if bits < 32 else ()
            entry = reader.find_entry("loader/entries/bootc_fedora-42-1.conf")
        except FatFormatError:
            return
        assert all(finding.detail for finding in findings)
        if entry is not None and not entry.is_directory:
            chain = reader.read_chain(entry.first_cluster)
            assert len(set(chain.clusters)) == len(chain.clusters) <= reader.geometry.cluster_count
            assert all(len(reader.read_cluster(one)) == reader.geometry.cluster_bytes for one in chain.clusters[:8])


def _check_slots(data: bytes) -> None:
    table, entries = fat_slots.parse_slots(data, wide_clusters=True)
    assert len(entries) <= len(data) // 32
    assert all(entry.slot_count <= 21 for entry in entries)
    # An end mark behind them changes nothing that stands before it.
    again = fat_slots.parse_slots(data[: len(data) // 32 * 32] + bytes(32), wide_clusters=True)
    assert again[1] == entries
    assert table.torn_names == again[0].torn_names


@functools.cache
def _image() -> int:
    """An EROFS image with a directory, files, a symlink and attributes, as the kernel's own tool makes it."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work, "tree")
        (tree / "etc/d").mkdir(parents=True)
        (tree / "etc/file").write_bytes(b"text")
        (tree / "etc/d/blocks").write_bytes(b"x" * 9000)
        (tree / "etc/link").symlink_to("file")
        os.setxattr(tree / "etc/file", "user.note", b"value")
        argv = ["mkfs.erofs", "-T0", str(Path(work, "image")), str(tree)]
        subprocess.run(argv, env=environment, check=True, capture_output=True)
        fd = os.memfd_create("erofs")
        os.write(fd, Path(work, "image").read_bytes())
        return fd


def _check_image(data: bytes) -> None:
    fd = _image()
    with _patched(fd, data):
        try:
            image = _core.Image.open(fd)
            image.verify()
            entries = sum(1 for _ in image.walk())
        except ImageFormatError as error:
            assert error.offset >= -1  # noqa: PT017
            return
        # What is whole can be read in every way.
        assert len(image.tree()) == entries
        for path in (b"etc/file", b"etc/d/blocks", b"etc/link", b"no"):
            found = image.lookup(path)
            if found is None or found.content != "image":
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, UsageError):
                    image.copy_file(path, _sink())


@functools.cache
def _sink() -> int:
    return os.open(os.devnull, os.O_WRONLY)


_TEXT = "systemd-boot 257\0".encode("utf-16-le")
_VARIABLE_SEED = b"\xff\n".join(
    b"\7\0\0\0" + value
    for value in (
        _TEXT, "11111111-2222-3333-4444-555555555555\0".encode("utf-16-le"), "a.conf\0b.conf\0".encode("utf-16-le"),
        "a.conf\0".encode("utf-16-le"), bytes(8), b"\1", _make_list(_SHA256, [b"\1" * 32]), b"", b"",
    )
)  # fmt: skip
_PATCH = struct.pack("<IB", 512, 4) + b"\xf8\xff\xff\x0f" + struct.pack("<IB", 1024, 2) + b"\0\0"
_SLOTS = (
    b"\x41a\0.\0c\0o\0n\0\x0f\0\x12f\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\xff\xff\xff\xff"
    b"A~1     CON \0\0\0\0\0\0\0\0\0\0\0\0\0\3\0\4\0\0\0"
    b"\xe5OLD    CFG \0\0\0\0\0\0\0\0\0\0\0\0\0\3\0\4\0\0\0"
)

TARGETS = (
    Target("a_program_is_hashed_but_for_its_checksum", _check_pe, lambda: (_make_pe(),)),
    Target("a_uki_names_digests_or_is_refused", _check_uki, lambda: (_make_pe(),)),
    Target(
        "two_key_lists_are_what_each_is",
        _check_key_lists,
        lambda: (
            _make_list(_SHA256, [b"\1" * 32, b"\2" * 32])
            + b"\xff\n"
            + _make_list(uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le, [b"\x30\x03\2\1\0"]),
        ),
    ),
    Target("efi_variables_are_read_or_refused", _check_variables, lambda: (_VARIABLE_SEED,), max_bytes=1024),
    Target(
        "a_split_stream_names_one_object",
        _check_stream,
        lambda: (_make_stream(is_old=False), _make_stream(is_old=True)),
        max_bytes=512,
    ),
    Target(
        "a_record_reads_back_as_it_was_read",
        _check_record,
        lambda: (b'{"version": 1, "result": "failed", "time": "t", "errors": [{"message": "m", "chain": ["c"]}]}',),
    ),
    Target("fat_slots_end_at_their_mark", _check_slots, lambda: (_SLOTS,), max_bytes=1024),
    Target("a_damaged_fat12_is_told", functools.partial(_check_fat, 12), lambda: (_PATCH, b""), max_bytes=256),
    Target("a_damaged_fat16_is_told", functools.partial(_check_fat, 16), lambda: (_PATCH, b""), max_bytes=256),
    Target("a_damaged_fat32_is_told", functools.partial(_check_fat, 32), lambda: (_PATCH, b""), max_bytes=256),
    Target("a_verified_image_reads_in_every_way", _check_image, lambda: (_PATCH, b""), max_bytes=256),
)
