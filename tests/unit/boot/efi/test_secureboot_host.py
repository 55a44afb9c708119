"""boot/secureboot.py: shim's switches, what runs as a witness, memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from secureboot import files, verdicts
from secureboot.authorities import Authority, ec_key, make
from secureboot.shim_cases import with_sbat
from secureboot.suite import PLAIN, sign

from bootc_fast.boot.efi import edk2
from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.boot.efi.secureboot import verify_uki
from bootc_fast.errors import SignatureError
from bootc_fast.lab.uki import build_uki

if TYPE_CHECKING:
    from pathlib import Path

ROOT, OTHER = make("Root"), make("Other root")
ELLIPTIC = make("Elliptic", key=ec_key(11, ec.SECP256R1()))
AGAIN = files.patch(PLAIN, 0x40, "B", 1)


def shim_state(*authorities: Authority, **switches: object) -> SecureBootState:
    mok = b"".join(map(verdicts.trust, authorities))
    return SecureBootState(enabled=True, mok=mok, **switches)  # type: ignore[arg-type]


def test_nothing_is_checked_where_shims_validation_is_off() -> None:
    state = shim_state(OTHER)
    with pytest.raises(SignatureError, match="not signed"):
        verify_uki(PLAIN, state, booted=None)
    assert verify_uki(PLAIN, replace(state, is_validation_off=True), booted=None) == []


def test_shim_that_ignores_db_does_so() -> None:
    state = shim_state(OTHER, db=verdicts.trust(ROOT))
    signed = sign(PLAIN, ROOT)
    assert verify_uki(signed, state, booted=None) == []
    with pytest.raises(SignatureError, match="neither"):
        verify_uki(signed, replace(state, ignores_db=True), booted=None)


def test_shim_that_wants_nx_refuses_what_does_not_say_it() -> None:
    state = shim_state(ROOT, requires_nx=True)
    assert verify_uki(sign(PLAIN, ROOT), state, booted=None) == []
    without = files.patch(PLAIN, 0x98 + 70, "H", 0)
    with pytest.raises(SignatureError, match="NX"):
        verify_uki(sign(without, ROOT), state, booted=None)


@pytest.mark.parametrize(("level", "passes"), [(b"sbat,1,1\nmine,3\n", True), (b"sbat,1,1\nmine,4\n", False)])
def test_the_level_that_shim_left_counts(level: bytes, passes: bool) -> None:  # noqa: FBT001
    data = sign(with_sbat("sbat,1,a,b,c,d", "mine,3,a,b,c,d"), ROOT)
    state = shim_state(ROOT, sbat_level=level)
    if passes:
        assert verify_uki(data, state, booted=None) == []
    else:
        with pytest.raises(SignatureError, match=r"\.sbat has mine 3, and shim wants 4"):
            verify_uki(data, state, booted=None)


@pytest.mark.parametrize("loader", ["firmware", "shim"])
def test_a_kind_of_signature_that_not_every_firmware_knows_needs_a_witness(loader: str) -> None:
    trusted = verdicts.trust(ELLIPTIC) + verdicts.trust(ROOT)
    state = SecureBootState(enabled=True, **{"db" if loader == "firmware" else "mok": trusted})
    signed = sign(PLAIN, ELLIPTIC)
    for booted in (None, sign(AGAIN, ROOT), AGAIN):
        with pytest.raises(SignatureError, match=r"signed with ECDSA, which .* may not know") as caught:
            verify_uki(signed, state, booted=booted)
        assert caught.value.exit_code == 11
    (warning,) = verify_uki(signed, state, booted=sign(AGAIN, ELLIPTIC))
    assert "ECDSA" in warning


def test_a_witness_of_another_kind_proves_nothing() -> None:
    state = SecureBootState(enabled=True, db=verdicts.trust(ELLIPTIC) + verdicts.trust(ROOT))
    with pytest.raises(SignatureError, match="ECDSA"):
        verify_uki(sign(PLAIN, ELLIPTIC), state, booted=sign(AGAIN, ROOT, pss=True))


_MEASURE = """
import os, resource, sys
from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi import secureboot, uki
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with open(sys.argv[1], "rb") as file: found = uki.parse_uki(file.fileno())
state = SecureBootState(enabled=True, db=open(sys.argv[2], "rb").read())
assert secureboot.verify_uki(found.pe, state, booted=found.pe) == []
print(peak() - before)
"""


def test_a_large_uki_is_read_in_pieces(tmp_path: Path) -> None:
    """Sparse, so that it costs the disk nothing; 300 MB were 930 MB of memory once."""
    small = build_uki(None, [(".cmdline", b"quiet"), (".initrd", b"i"), (".linux", bytes(512))])
    # The last section becomes 300 MiB of zeros.
    sections = parse_pe(small).sections
    assert sections[-1].name == ".linux"
    table = small.index(b".linux\0\0")
    length = 300 << 20
    grown = files.patch(files.patch(small, table + 8, "I", length), table + 16, "I", length)
    path, db = tmp_path / "large.efi", tmp_path / "db"
    path.write_bytes(grown)
    with path.open("r+b") as file:
        file.truncate(sections[-1].offset + length)
    # Its hash is in db: then no signature is needed, and all of it is hashed.
    with path.open("rb") as file:
        digest = edk2.hash_image(parse_pe(file.fileno()), "sha256")
    db.write_bytes(files.signature_list(files.IMAGE_HASH["sha256"], digest))
    done = subprocess.run([sys.executable, "-c", _MEASURE, path, db], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 20 << 10
