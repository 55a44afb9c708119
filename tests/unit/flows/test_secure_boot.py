"""finalize with Secure Boot on: kernels of BLS entries and UKIs are judged as shim or the firmware will judge them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import flowkit
import pytest
from secureboot.authorities import Authority, make, rsa_key
from secureboot.files import CERT_X509, signature_list
from secureboot.shim_cases import with_sbat
from secureboot.suite import PLAIN, sign

from bootc_fast import lab
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from pathlib import Path

GLOBAL, SECURITY = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
TRUSTED, STRANGER = make("Vendor"), make("Stranger", key=rsa_key("another key"))


def set_variable(case: flowkit.Case, name: str, vendor: str, value: bytes) -> None:
    directory = case.root / "sys/firmware/efi/efivars"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}-{uuid.UUID(vendor)}").write_bytes(b"\6\0\0\0" + value)


def trust(*authorities: Authority) -> bytes:
    return b"".join(signature_list(CERT_X509, one.der) for one in authorities)


def make_case(directory: Path, kernel: bytes, *, running: bytes | None = None) -> flowkit.Case:
    """A GRUB host with BLS entries, Secure Boot on, Vendor in db, and an update with this kernel."""
    host = lab.make_host(directory, files=flowkit.OLD, loader=Loader.GRUB, kernel=running)
    case = flowkit.Case(host, host.booted, lab.stage_files(host, flowkit.NEW, kernel=kernel))
    set_variable(case, "SecureBoot", GLOBAL, b"\1")
    set_variable(case, "db", SECURITY, trust(TRUSTED))
    return case


def fails(capsys: pytest.CaptureFixture[str], case: flowkit.Case, words: str) -> None:
    code, _, err = flowkit.finalize(capsys, case)
    assert (code, "hint: --no-verify-signatures" in err) == (11, True)
    assert words in err
    assert flowkit.next_boot(case.host) == case.booted


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (PLAIN, "it is not signed"),
        (b"kernel", "nothing that Secure Boot starts"),
        (sign(PLAIN, STRANGER), "CN=Stranger is in neither db nor MokListRT"),
    ],
)
def test_a_kernel_that_the_firmware_would_refuse_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kernel: bytes, words: str
) -> None:
    case = make_case(tmp_path / "h", kernel)
    fails(capsys, case, words)
    assert flowkit.finalize(capsys, case, "--no-verify-signatures")[0] == 0
    assert flowkit.next_boot(case.host) == case.staged


def test_a_kernel_that_the_firmware_takes_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_case(tmp_path / "h", sign(PLAIN, TRUSTED))
    assert flowkit.finalize(capsys, case)[0] == 0
    assert flowkit.next_boot(case.host) == case.staged


def test_where_shim_runs_its_lists_and_its_switch_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # shim knows SHA-256 only; the firmware alone would take it.
    case = make_case(tmp_path / "h", sign(PLAIN, TRUSTED, digest="sha512"))
    set_variable(case, "MokListRT", SHIM, trust(STRANGER))
    fails(capsys, case, "another hash")
    set_variable(case, "MokSBStateRT", SHIM, b"\1")
    assert flowkit.finalize(capsys, case)[0] == 0


def test_a_kernel_below_shims_sbat_level_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = with_sbat("sbat,1,SBAT Version,sbat,1,https://x", "linux,1,a,linux,1,https://x")
    case = make_case(tmp_path / "h", sign(data, TRUSTED))
    set_variable(case, "MokListRT", SHIM, trust(TRUSTED))
    set_variable(case, "SbatLevelRT", SHIM, b"sbat,1,2030010100\nlinux,2\n")
    fails(capsys, case, "linux 1, and shim wants 2 (SbatLevelRT)")
    set_variable(case, "SbatLevelRT", SHIM, b"sbat,1,2030010100\nlinux,1\n")
    assert flowkit.finalize(capsys, case)[0] == 0


def test_a_running_kernel_of_the_same_unknown_signer_makes_it_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = PLAIN[:0x40] + b"\1" + PLAIN[0x41:]
    case = make_case(tmp_path / "h", sign(changed, STRANGER), running=sign(PLAIN, STRANGER))
    code, _, err = flowkit.finalize(capsys, case)
    assert code == 0
    assert "CN=Stranger is in neither db nor MokListRT, but what runs has the same one" in err
