"""A set of files and the lists against which a loader judges them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secureboot import files
from secureboot.authorities import Authority, make

if TYPE_CHECKING:
    from collections.abc import Sequence

# xor eax, eax; ret
CODE = b"\x31\xc0\xc3"
SECTIONS = ((".data", b"data" * 32), (".rdata", b"constant" * 16))
PLAIN = files.build_pe(CODE, *SECTIONS)

Cases = dict[str, bytes]


@dataclass
class Lists:
    """The content of a loader's lists, by the kinds of their entries."""

    certificates: list[Authority] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    images: dict[str, list[bytes]] = field(default_factory=dict)

    def trust(self, *authorities: Authority) -> None:
        self.certificates += authorities

    def add_image(self, data: bytes, digest: str = "sha256") -> bytes:
        self.images.setdefault(digest, []).append(files.pe_hash(data, digest))
        return data

    def add_revoked(self, authority: Authority, digest: str = "sha256", time: bytes = bytes(16)) -> None:
        found = hashlib.new(digest, authority.tbs).digest()
        self.raw.append(files.signature_list(files.CERTIFICATE_HASH[digest], found + time))

    def encode(self) -> bytes:
        parts = [files.signature_list(files.CERT_X509, one.der) for one in self.certificates]
        parts += [files.signature_list(files.IMAGE_HASH[name], *found) for name, found in self.images.items()]
        return b"".join(parts + self.raw)


@dataclass(frozen=True)
class Suite:
    """Files by name, and the lists."""

    cases: Cases
    owner: Authority
    db: bytes
    dbx: bytes
    mok: bytes = b""
    mokx: bytes = b""


class Marks:
    """Files that differ in two bytes of the DOS header, so that each has a digest of its own."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> bytes:
        self._last += 1
        return files.build_pe(CODE, *SECTIONS, mark=self._last)


def sign(data: bytes, *signers: Authority, chain: Sequence[Authority | bytes] = (), **options: object) -> bytes:
    """A file with one signature."""
    return files.attach(data, files.entry(files.pkcs7(data, *signers, chain=chain, **options)))  # type: ignore[arg-type]


def chain_of(length: int, name: str, root: Authority) -> list[Authority]:
    """Authorities below a root, each issued by the one before."""
    found = [root]
    for index in range(length):
        found.append(make(f"{name} {index}", found[-1]))
    return found[1:]
