"""UKIs made with Debian's systemd stub and objcopy, test authorities, signatures by sbsign, EFI signature lists."""

from __future__ import annotations

import datetime as dt
import struct
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
OWNER = uuid.UUID("11111111-2222-3333-4444-123456789abc")
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
CERT_X509_SHA256 = uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")


@dataclass(frozen=True)
class Authority:
    """A key with its certificate; may issue others where it is a CA."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
        encryption = serialization.NoEncryption()
        form = serialization.PrivateFormat.TraditionalOpenSSL
        key.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, form, encryption))
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate


def make_authority(name: str, issuer: Authority | None = None, *, is_ca: bool = True) -> Authority:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # Long expired: firmware does not look at dates.
    start = dt.datetime(2019, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650 * 4))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    return Authority(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


def build_uki(directory: Path, *, name: str = "uki", stub: str = STUB, **sections: bytes) -> Path:
    """Append sections to the stub as ``ukify`` does: each at the next free page behind the last one."""
    out = directory / f"{name}.efi"
    headers = subprocess.run(["objdump", "-h", stub], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in headers.splitlines() if line.strip()[:1].isdigit()]
    address = max(int(row[3], 16) + int(row[2], 16) for row in rows)
    argv = ["objcopy"]
    for section, content in sections.items():
        path = directory / f"{name}.{section}"
        path.write_bytes(content)
        address = -(-address // 4096) * 4096
        argv += ["--add-section", f".{section}={path}", "--change-section-vma", f".{section}={address:#x}"]
        address += len(content)
    subprocess.run([*argv, stub, str(out)], check=True, capture_output=True)
    return out


def sign(path: Path, authority: Authority, *, chain: tuple[Authority, ...] = ()) -> Path:
    key, certificate = authority.write(path.parent, "signer")
    out = path.with_suffix(".signed.efi")
    argv = ["sbsign", "--key", str(key), "--cert", str(certificate), "--output", str(out)]
    for index, one in enumerate(chain):
        argv += ["--addcert", str(one.write(path.parent, f"chain{index}")[1])]
    subprocess.run([*argv, str(path)], check=True, capture_output=True)
    return out


def sbverify(path: Path, authority: Authority) -> bool:
    """Say what Debian's verifier says."""
    _, certificate = authority.write(path.parent, "anchor")
    argv = ["sbverify", "--cert", str(certificate), str(path)]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def signature_list(kind: uuid.UUID, *entries: bytes) -> bytes:
    """Make an EFI signature list; all entries have the same length."""
    size = 16 + len(entries[0])
    body = b"".join(OWNER.bytes_le + entry for entry in entries)
    return kind.bytes_le + struct.pack("<III", 28 + len(body), 0, size) + body


def trust(*authorities: Authority) -> bytes:
    return b"".join(signature_list(CERT_X509, authority.der) for authority in authorities)
