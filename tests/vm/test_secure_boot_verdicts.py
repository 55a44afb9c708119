"""OVMF's LoadImage and Debian's shim, asked in a machine about fresh files: the product has the same opinion.

Two boots without a system behind, some half a minute each.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from secureboot import machine, verdicts
from secureboot.authorities import Authority, make
from secureboot.suite import PLAIN, Suite, sign
from ukis import STUB, build_uki

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]


def _fresh(name: str, issuer: Authority | None = None, *, ca: bool = True) -> Authority:
    return make(name, issuer, ca=ca, key=rsa.generate_private_key(65537, 2048))


def _sbsign(data: Path, out: Path, signer: Authority, *chain: Authority) -> None:
    key, certificate = signer.write(out.parent, "signer")
    argv: list[str | Path] = ["sbsign", "--key", key, "--cert", certificate, "--output", out]
    for index, one in enumerate(chain):
        argv += ["--addcert", one.write(out.parent, f"chain{index}")[1]]
    subprocess.run([*argv, data], check=True, capture_output=True)


def _osslsigncode(digest: str) -> Callable[..., None]:
    def run(data: Path, out: Path, signer: Authority, *chain: Authority) -> None:
        key, certificate = signer.write(out.parent, "signer")
        for index, one in enumerate(chain):
            with certificate.open("ab") as file:
                file.write(one.write(out.parent, f"chain{index}")[1].read_bytes())
        out.unlink(missing_ok=True)
        argv = ["osslsigncode", "sign", "-certs", certificate, "-key", key, "-h", digest, "-in", data, "-out", out]
        subprocess.run(argv, check=True, capture_output=True)

    return run


def _add_fresh(suite: Suite, work: Path, trusted: Authority) -> None:
    """Whole UKIs with systemd's stub, signed by the tools that people use, with keys made now."""
    stranger, inter = _fresh("fresh stranger"), _fresh("fresh intermediate", trusted)
    below = _fresh("fresh leaf", inter, ca=False)
    uki = build_uki(work, stub=STUB, cmdline=b"quiet", osrel=b"ID=test\n", linux=b"kernel" * 900, initrd=b"initrd")
    tools: dict[str, Callable[..., None]] = {"sbsign": _sbsign}
    tools |= {f"osslsigncode {digest}": _osslsigncode(digest) for digest in ("sha1", "sha256", "sha384", "sha512")}
    signed = work / "signed.efi"
    for name, tool in tools.items():
        for who, signer, chain in (
            ("trusted", trusted, ()),
            ("leaf", below, (inter,)),
            ("leaf, intermediate missing", below, ()),
            ("stranger", stranger, ()),
        ):
            tool(uki, signed, signer, *chain)
            suite.cases[f"fresh: {name}, {who}"] = signed.read_bytes()
    _sbsign(uki, signed, stranger)
    twice = work / "twice.efi"
    _sbsign(signed, twice, trusted)
    suite.cases["fresh: sbsign twice, a stranger first"] = twice.read_bytes()
    suite.cases["fresh: UKI, unsigned"] = uki.read_bytes()
    suite.cases["fresh: by cryptography"] = sign(PLAIN, trusted)
    changed = bytearray(twice.read_bytes())
    changed[0x500] ^= 1
    suite.cases["fresh: sbsign twice, one byte changed"] = bytes(changed)


@pytest.mark.parametrize("loader", list(verdicts.MAKERS))
def test_the_real_loader_says_of_fresh_and_recorded_files_what_we_say(loader: str, tmp_path: Path) -> None:
    assert shutil.which("osslsigncode") is not None
    trusted = _fresh("fresh root")
    suite = verdicts.MAKERS[loader]()
    own = verdicts.trust(trusted)
    suite = replace(suite, db=suite.db + own) if loader == "firmware" else replace(suite, mok=suite.mok + own)
    (tmp_path / "files").mkdir()
    (tmp_path / "machine").mkdir()
    _add_fresh(suite, tmp_path / "files", trusted)
    answers = machine.ask(suite, suite.cases, tmp_path / "machine", with_shim=loader == "shim")
    rows = verdicts.compare(suite, answers)
    differing = {row.name: (row.loader, row.ours, row.reason) for row in rows if row.loader != row.ours}
    assert {name: one for name, one in differing.items() if name not in verdicts.EXPLAINED[loader]} == {}
    fresh = [row for row in rows if row.name.startswith("fresh: ")]
    assert {row.loader for row in fresh} == {"accept", "refuse"}
    assert len(fresh) >= 20
