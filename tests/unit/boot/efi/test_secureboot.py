"""boot/secureboot.py: what firmware and shim would refuse (spec boot.md, "UKIs"); compared with sbverify."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st
from ukis import (
    CERT_SHA256,
    CERT_X509_SHA256,
    Authority,
    build_uki,
    make_authority,
    sbverify,
    sign,
    signature_list,
    trust,
)

from bootc_fast.boot.efi import shim
from bootc_fast.boot.efi.edk2 import hash_image
from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi.pe import parse_pe
from bootc_fast.boot.efi.secureboot import verify_uki
from bootc_fast.boot.efi.siglist import parse_key_list
from bootc_fast.errors import BootcFastError, InvalidStateError, SignatureError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class World:
    """A root, an intermediate below it, a leaf below that, a stranger, and UKIs signed by them."""

    root: Authority
    intermediate: Authority
    leaf: Authority
    stranger: Authority
    unsigned: Path
    by_root: Path
    by_leaf: Path
    by_stranger: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = make_authority("Test root")
    intermediate = make_authority("Test intermediate", root)
    leaf = make_authority("Test signer", intermediate, is_ca=False)
    stranger = make_authority("Stranger", is_ca=False)

    def make(name: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        return build_uki(directory, cmdline=b"quiet", osrel=b"ID=test\n", linux=b"kernel" * 900, initrd=name.encode())

    return World(
        root,
        intermediate,
        leaf,
        stranger,
        unsigned=make("unsigned"),
        by_root=sign(make("root"), root),
        by_leaf=sign(make("leaf"), leaf, chain=(intermediate,)),
        by_stranger=sign(make("stranger"), stranger),
    )


def state(*, db: bytes = b"", dbx: bytes = b"", mok: bytes = b"", mokx: bytes = b"") -> SecureBootState:
    return SecureBootState(enabled=True, db=db, dbx=dbx, mok=mok, mokx=mokx)


def verify(path: Path, keys: SecureBootState, booted: Path | None = None) -> list[str]:
    return verify_uki(path.read_bytes(), keys, booted=booted.read_bytes() if booted else None)


def test_a_uki_signed_by_a_trusted_key_is_accepted_as_sbverify_does(world: World) -> None:
    assert verify(world.by_root, state(db=trust(world.root))) == []
    assert verify(world.by_root, state(mok=trust(world.stranger, world.root))) == []
    assert sbverify(world.by_root, world.root)


def test_a_chain_through_an_intermediate_is_followed(world: World) -> None:
    for anchor in (world.root, world.intermediate, world.leaf):
        assert verify(world.by_leaf, state(db=trust(anchor))) == []


def test_an_unknown_signer_is_refused_as_sbverify_does(world: World) -> None:
    with pytest.raises(SignatureError, match="CN=Stranger is in neither db nor MokListRT") as caught:
        verify(world.by_stranger, state(db=trust(world.root)))
    assert (caught.value.exit_code, caught.value.hint is not None) == (11, True)
    assert not sbverify(world.by_stranger, world.root)


def test_an_issuer_that_may_not_issue_is_no_link(world: World, tmp_path: Path) -> None:
    fake = make_authority("Fake", world.stranger, is_ca=False)
    path = sign(build_uki(tmp_path, linux=b"x", initrd=b"y"), fake, chain=(world.stranger,))
    with pytest.raises(SignatureError, match="CN=Stranger may not issue others"):
        verify(path, state(db=trust(world.stranger)))


def test_a_chain_without_its_intermediate_is_refused(world: World, tmp_path: Path) -> None:
    path = sign(build_uki(tmp_path, linux=b"x", initrd=b"y"), world.leaf)
    with pytest.raises(SignatureError, match="neither"):
        verify(path, state(db=trust(world.root)))
    assert verify(path, state(db=trust(world.intermediate))) == []


def test_an_unsigned_uki_is_refused(world: World) -> None:
    with pytest.raises(SignatureError, match="not signed"):
        verify(world.unsigned, state(db=trust(world.root)), booted=world.unsigned)
    assert not sbverify(world.unsigned, world.root)


def test_nothing_is_checked_where_secure_boot_is_off(world: World) -> None:
    assert verify(world.unsigned, SecureBootState(enabled=False)) == []


def image_hash(path: Path) -> bytes:
    return hash_image(parse_pe(path.read_bytes()), "sha256")


@pytest.mark.parametrize("name", ["dbx", "mokx"])
def test_a_uki_forbidden_by_its_hash_is_refused(world: World, name: str) -> None:
    lists = signature_list(CERT_SHA256, bytes(32), image_hash(world.by_root))
    with pytest.raises(SignatureError, match="by its hash"):
        verify(world.by_root, state(db=trust(world.root), **{name: lists}))


@pytest.mark.parametrize("name", ["dbx", "mokx"])
def test_a_forbidden_certificate_anywhere_in_the_chain_refuses(world: World, name: str) -> None:
    for authority in (world.leaf, world.intermediate, world.root):
        with pytest.raises(SignatureError, match="forbids its signer"):
            verify(world.by_leaf, state(db=trust(world.root), **{name: trust(authority)}))


def test_a_certificate_forbidden_by_its_hash_refuses(world: World) -> None:
    """The firmware looks at the signer and at the certificate in db, not at what lies between."""

    def forbid(authority: Authority) -> bytes:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(authority.certificate.tbs_certificate_bytes)
        return signature_list(CERT_X509_SHA256, digest.finalize() + bytes(16))

    for authority in (world.leaf, world.root):
        with pytest.raises(SignatureError, match="forbids the certificate"):
            verify(world.by_leaf, state(db=trust(world.root), dbx=forbid(authority)))
    assert verify(world.by_leaf, state(db=trust(world.root), dbx=forbid(world.intermediate))) == []


def test_keys_of_others_in_dbx_do_not_matter(world: World) -> None:
    dbx = trust(world.stranger) + signature_list(CERT_SHA256, bytes(32))
    assert verify(world.by_leaf, state(db=trust(world.root), dbx=dbx)) == []


def test_the_hash_of_the_unsigned_file_is_that_of_the_signed_one(world: World, tmp_path: Path) -> None:
    path = build_uki(tmp_path, linux=b"x" * 5000, initrd=b"y")
    # sbsign pads to 8 bytes before it signs, which counts.
    padded = path.read_bytes()
    path.write_bytes(padded.ljust(-(-len(padded) // 8) * 8, b"\0"))
    assert image_hash(path) == image_hash(sign(path, world.root))


def test_an_enrolled_hash_needs_no_signature(world: World) -> None:
    enrolled = signature_list(CERT_SHA256, image_hash(world.unsigned))
    assert verify(world.unsigned, state(db=enrolled)) == []
    # shim pads a file to 8 bytes before it hashes, as sbsign does before it signs.
    pe = parse_pe(world.unsigned.read_bytes())
    (padded,) = pe.image.hash(shim.list_parts(pe), ["sha256"])
    assert verify(world.unsigned, state(mok=signature_list(CERT_SHA256, padded))) == []


def test_an_unknown_signer_that_also_signed_the_running_uki_is_a_warning(world: World, tmp_path: Path) -> None:
    other = sign(build_uki(tmp_path, linux=b"x", initrd=b"y"), world.stranger)
    (warning,) = verify(world.by_stranger, state(db=trust(world.root)), booted=other)
    assert "what runs has the same one" in warning


def test_a_running_uki_of_another_signer_or_without_proof_does_not_help(world: World) -> None:
    forged = bytearray(world.by_stranger.read_bytes())
    forged[0x10] ^= 1
    for booted in (world.by_root.read_bytes(), world.unsigned.read_bytes(), bytes(forged), b"no PE file"):
        with pytest.raises(SignatureError, match="neither"):
            verify_uki(world.by_stranger.read_bytes(), state(db=trust(world.root)), booted=booted)


def test_a_revoked_signer_is_refused_though_the_running_uki_has_it(world: World) -> None:
    with pytest.raises(SignatureError, match="dbx forbids"):
        verify(world.by_stranger, state(dbx=trust(world.stranger)), booted=world.by_stranger)


def uncovered(data: bytes) -> list[tuple[int, int]]:
    """Return the parts that Authenticode does not cover."""
    pe = parse_pe(data).image
    assert pe.security_offset is not None
    return [
        (pe.checksum_offset, pe.checksum_offset + 4),
        (pe.security_offset, pe.security_offset + 8),
        (pe.signatures_offset, pe.signatures_offset + pe.signatures_bytes),
    ]


def offsets_to_flip(data: bytes, count: int) -> list[int]:
    """Every byte of the headers, and a sample of the rest; a fixed seed makes a failure repeatable."""
    holes = uncovered(data)
    sample = random.Random(20261122).sample(range(len(data)), count)  # noqa: S311 - no secret
    return [at for at in [*range(1024), *sample] if not any(start <= at < end for start, end in holes)]


def test_any_flipped_byte_that_is_covered_is_refused(world: World) -> None:
    original = world.by_leaf.read_bytes()
    keys = state(db=trust(world.root))
    accepted = []
    for offset in offsets_to_flip(original, 400):
        data = bytearray(original)
        data[offset] ^= 0x55
        try:
            verify_uki(bytes(data), keys, booted=original)
        except SignatureError:
            continue
        accepted.append(offset)
    assert accepted == []


def test_flips_are_judged_as_sbverify_judges_them(world: World, tmp_path: Path) -> None:
    """In the signature table too, where some bytes count (keys, digests) and some do not (padding, version)."""
    original = world.by_root.read_bytes()
    keys = state(db=trust(world.root))
    start, end = uncovered(original)[2]
    chosen = random.Random(7)  # noqa: S311 - no secret
    offsets = [*chosen.sample(range(start, end), 150), *chosen.sample(range(len(original)), 30)]
    stricter, looser = [], []
    for offset in offsets:
        data = bytearray(original)
        data[offset] ^= 0x55
        path = tmp_path / "flipped.efi"
        path.write_bytes(data)
        try:
            verify_uki(bytes(data), keys, booted=None)
            ours = True
        except SignatureError:
            ours = False
        theirs = sbverify(path, world.root)
        if ours and not theirs:
            looser.append(offset - start)
        elif theirs and not ours:
            stricter.append(offset - start)
    assert looser == []
    # Refusing what OpenSSL lets pass (e.g. a malformed field that it does not read) is no danger.
    assert len(stricter) < len(offsets) // 10


def test_every_byte_of_the_signature_table_passes_or_is_refused_without_a_crash(world: World) -> None:
    original = world.by_root.read_bytes()
    keys = state(db=trust(world.root))
    start, end = uncovered(original)[2]
    refused = 0
    for offset in range(start, end, 2):
        data = bytearray(original)
        data[offset] ^= 0x55
        try:
            verify_uki(bytes(data), keys, booted=original)
        except SignatureError:
            refused += 1
    assert refused > (end - start) // 4


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_the_signature_does_anything_but_pass_or_be_refused(world: World, data: st.DataObject) -> None:
    changed = bytearray(world.by_root.read_bytes())
    start, end = uncovered(bytes(changed))[2]
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(start, end - 1))] = data.draw(st.integers(0, 255))
    try:
        verify_uki(bytes(changed), state(db=trust(world.root)), booted=world.by_root.read_bytes())
    except SignatureError:
        return


def test_a_signature_of_another_file_is_refused(world: World) -> None:
    one, two = world.by_root.read_bytes(), bytearray(world.by_stranger.read_bytes())
    start, end = uncovered(one)[2]
    at, security = parse_pe(bytes(two)).image.signatures_offset, uncovered(bytes(two))[1][0]
    moved = bytes(two[:at]) + one[start:end]
    patched = bytearray(moved)
    struct.pack_into("<II", patched, security, at, end - start)
    with pytest.raises(SignatureError, match="changed after it was signed"):
        verify_uki(bytes(patched), state(db=trust(world.root)), booted=None)


@pytest.mark.parametrize("table", [b"\xff" * 64, struct.pack("<IHH", 8, 0x200, 2), struct.pack("<IHH", 4096, 0x200, 2)])
def test_a_torn_table_of_signatures_is_refused(world: World, table: bytes) -> None:
    data = bytearray(world.unsigned.read_bytes())
    data += bytes(-len(data) % 8)
    security = parse_pe(bytes(data)).image.security_offset
    assert security is not None
    struct.pack_into("<II", data, security, len(data), len(table))
    with pytest.raises(SignatureError, match="torn"):
        verify_uki(bytes(data) + table, state(db=trust(world.root)), booted=None)


@pytest.mark.parametrize("data", [b"", b"MZ", bytes(4096)])
def test_what_is_no_pe_file_is_refused(world: World, data: bytes) -> None:
    with pytest.raises(SignatureError, match="PE file"):
        verify_uki(data, state(db=trust(world.root)), booted=None)


@pytest.mark.parametrize("cut", [1, 27, 28, 40, 100])
def test_a_malformed_list_of_keys_is_an_invalid_state_with_a_hint(world: World, cut: int) -> None:
    with pytest.raises(InvalidStateError, match="dbx") as caught:
        verify(world.by_root, state(db=trust(world.root), dbx=trust(world.stranger)[:cut]))
    assert "--no-verify-signatures" in (caught.value.hint or "")


@given(st.binary(max_size=200))
def test_no_list_of_keys_does_anything_but_parse_or_be_refused(data: bytes) -> None:
    try:
        parse_key_list(data, what="test")
    except BootcFastError:
        return


def test_lists_of_unknown_kinds_are_passed_over(world: World) -> None:
    unknown = signature_list(CERT_SHA256, bytes(32))[16:]
    keys = parse_key_list(b"\x42" * 16 + unknown + trust(world.root), what="test")
    assert [one.der for one in keys.load_certificates()] == [world.root.der]
