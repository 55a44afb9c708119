"""Keys for a firmware, in the form in which systemd-boot enrols them, and what is signed with them."""

from __future__ import annotations

import datetime as dt
import shutil
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7
from ukis import CERT_X509, Authority, make_authority, sign, signature_list

from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.lab.uki import build_uki

if TYPE_CHECKING:
    from pathlib import Path


_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_CERT_TYPE_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
# Non-volatile, for boot services and at run time, time-based authenticated.
_ATTRIBUTES = 0x27
# The DER header of ContentInfo around SignedData: two lengths of two bytes, the type's name.
_CONTENT_INFO_BYTES = 19


@dataclass(frozen=True)
class Keys:
    """Who may change the firmware's lists, and who may sign what it starts."""

    platform: Authority
    database: Authority


def make_keys() -> Keys:
    return Keys(make_authority("test platform key"), make_authority("test signer"))


def _authenticate(name: str, vendor: uuid.UUID, content: bytes, signer: Authority) -> bytes:
    """Make an authenticated update of a variable.

    Source:
        UEFI specification, "EFI_VARIABLE_AUTHENTICATION_2"; EDK II ``AuthService.c``: SignedData without ContentInfo,
        SHA-256, detached, no attributes.
    """
    now = dt.datetime.now(dt.UTC)
    time = struct.pack("<HBBBBBxIhBx", now.year, now.month, now.day, now.hour, now.minute, now.second, 0, 0, 0)
    signed = name.encode("utf-16-le") + vendor.bytes_le + struct.pack("<I", _ATTRIBUTES) + time + content
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.NoAttributes, pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(signed)
    builder = builder.add_signer(signer.certificate, signer.key, hashes.SHA256())
    signature = builder.sign(serialization.Encoding.DER, options)[_CONTENT_INFO_BYTES:]
    header = struct.pack("<IHH", 8 + 16 + len(signature), 0x0200, 0x0EF1) + _CERT_TYPE_PKCS7.bytes_le
    return time + header + signature + content


def write_enrolment(keys: Keys, work: Path) -> dict[str, Path | str]:
    """Write PK, KEK and db as authenticated updates; return where systemd-boot looks for them on the ESP."""
    files: dict[str, Path | str] = {}
    for name, vendor, authority in (
        ("PK", _GLOBAL, keys.platform),
        ("KEK", _GLOBAL, keys.platform),
        ("db", _SECURITY_DATABASE, keys.database),
    ):
        update = work / f"{name}.auth"
        update.write_bytes(_authenticate(name, vendor, signature_list(CERT_X509, authority.der), keys.platform))
        files[f"loader/keys/auto/{name}.auth"] = update
    return files


def add_arguments(uki: Path, arguments: str, stub: bytes) -> None:
    """Build a UKI anew with more kernel arguments in front."""
    pe = parse_pe(uki.read_bytes())
    names = (".osrel", ".cmdline", ".uname", ".initrd", ".linux")
    found = {name: pe.read_section(name) or b"" for name in names}
    found[".cmdline"] = arguments.encode() + b" " + found[".cmdline"]
    uki.write_bytes(build_uki(stub, [(name, found[name]) for name in names]))


def sign_in_place(path: Path, authority: Authority, work: Path) -> None:
    """Sign a PE file; `work` gets the key, which no ESP should have."""
    copy = work / "to-sign.efi"
    shutil.copy(path, copy)
    shutil.copy(sign(copy, authority), path)
