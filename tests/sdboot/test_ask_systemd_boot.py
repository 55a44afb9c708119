"""systemd-boot itself is asked again, with tiny programs as kernels: its answers are those in answers.json."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from sdboot.questions import QUESTIONS, ask
from sdboot.record import ANSWERS, read_info, record

REPOSITORY = Path(__file__).parents[2]
_PROGRAM = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
SUITES = ("bookworm", "bookworm-backports", "trixie", "forky", "sid")
_SHORT = ("counts uki", "counts down", "counted, no program")
_SHORT_257 = ("counts efi", "at 0, default name")
_KNOWN = json.loads(ANSWERS.read_text())["loaders"]


def _find_known(info: str) -> dict[str, list[dict[str, str]]]:
    """The answers of the same version, or of another build of the same release."""
    release = info.split(".", maxsplit=1)[0].split("-1", maxsplit=1)[0]
    found = _KNOWN.get(info) or next((_KNOWN[one] for one in _KNOWN if one.startswith(release)), None)
    assert found is not None, f"{info} was never asked: python -m sdboot.record"
    return dict(found)


def _extract(suite: str) -> Path:
    tree = REPOSITORY / "build/rootfs" / f"systemd-boot-{suite}"
    subprocess.run([REPOSITORY / "tools/make-rootfs", "--extract", suite, tree, "systemd-boot-efi"], check=True)
    return tree / _PROGRAM


@pytest.mark.vm
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("loader", "keys"), [(Path("/", _PROGRAM), _SHORT), (REPOSITORY / "build/rootfs/trixie" / _PROGRAM, _SHORT_257)]
)
def test_it_answers_as_it_did(tmp_path: Path, loader: Path, keys: tuple[str, ...]) -> None:
    subprocess.run([REPOSITORY / "tools/make-rootfs", "trixie", REPOSITORY / "build/rootfs/trixie"], check=True)
    known = _find_known(read_info(loader))
    # As whoever asks anew does, with nothing to begin with.
    kept = tmp_path / "answers.json"
    kept.write_text('{"loaders": {}}')
    assert record(loader, keys, answers=kept) == list(keys)
    assert json.loads(kept.read_text()) == {"loaders": {read_info(loader): {key: known[key] for key in keys}}}


@pytest.mark.vm
@pytest.mark.machines
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", SUITES)
def test_every_version_answers_as_it_did(tmp_path: Path, suite: str) -> None:
    loader = _extract(suite)
    known = _find_known(read_info(loader))
    wrong = {}
    for key in known:
        answer = ask(QUESTIONS[key], loader, tmp_path)
        if answer != known[key]:
            wrong[key] = (answer, known[key])
    assert wrong == {}
