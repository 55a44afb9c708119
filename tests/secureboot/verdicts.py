"""The recorded verdicts of firmware and shim, and where the product differs on purpose."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secureboot import files, firmware_cases, shim_cases

from bootc_fast.boot.efi.firmware import SecureBootState
from bootc_fast.boot.efi.secureboot import verify_uki
from bootc_fast.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from secureboot.authorities import Authority
    from secureboot.suite import Suite

RECORD = Path(__file__).with_name("verdicts.json")
MAKERS: dict[str, Callable[[], Suite]] = {"firmware": firmware_cases.make_suite, "shim": shim_cases.make_suite}
_DIGEST_CHARS = 16

EXPLAINED: dict[str, dict[str, str]] = {
    "firmware": {},
    "shim": {
        "path length exceeded": "shim up to 16.1 has OpenSSL 1.0.2, which does not count below a self-signed "
        "certificate; the next shim has OpenSSL 3.5, which does",
        "MOK that is no CA, leaf below": "shim up to 16.1 lets an issuer pass that is no CA; the next shim does not",
    },
}
"""Where we differ from the recorded loader, and why; a test holds that these are all, and that each still differs."""


@dataclass(frozen=True)
class Row:
    """One file: what the loader said, what we say, and our words."""

    name: str
    loader: str
    ours: str
    reason: str


def trust(authority: Authority) -> bytes:
    """A list with one more certificate."""
    return files.signature_list(files.CERT_X509, authority.der)


def digest(data: bytes) -> str:
    """A file's digest, by which a record is known to be of these bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGEST_CHARS]


def read_record() -> dict[str, dict[str, dict[str, str]]]:
    """Read what was recorded: by loader and name, the file's digest and the verdict; and under "of" who said so."""
    found: dict[str, dict[str, dict[str, str]]] = json.loads(RECORD.read_text())
    return found


def write_record(loader: str, of: str, suite: Suite, answers: Mapping[str, str]) -> None:
    """Replace the record of one loader."""
    record = read_record() if RECORD.exists() else {}
    record.setdefault("of", {})[loader] = of  # type: ignore[assignment]
    record[loader] = {name: {"file": digest(data), "verdict": answers[name]} for name, data in suite.cases.items()}
    RECORD.write_text(json.dumps(record, indent=0, sort_keys=False) + "\n")


def state_of(suite: Suite) -> SecureBootState:
    """What the product reads on such a host."""
    return SecureBootState(enabled=True, db=suite.db, dbx=suite.dbx, mok=suite.mok, mokx=suite.mokx)


def judge(data: bytes, state: SecureBootState) -> tuple[str, str]:
    """Return our verdict, and our words where it is a refusal."""
    try:
        verify_uki(data, state, booted=None)
    except SignatureError as error:
        return "refuse", str(error).removeprefix("checking the UKI: ")
    return "accept", ""


def compare(suite: Suite, answers: Mapping[str, str]) -> list[Row]:
    """Judge all files and put our verdicts beside the loader's."""
    state = state_of(suite)
    return [Row(name, answers[name], *judge(data, state)) for name, data in suite.cases.items()]
