"""OVMF and systemd-boot look at states: which kernel do they try, or none?

Kernels of lab hosts are no programs: the loader says so, with the path, and that is what is read off the serial port.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from loader_emulation import list_menu
from powercut.fat import Fat
from powercut.firmware import Ovmf, add_loader, put_on_disk
from powercut.recording import load, write_image
from powercut.replay import RECORDINGS, judged_states

from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from powercut.recording import Recording


def ask_firmware(recording: Recording, changed: Mapping[int, bytes], work: Path, *, timeout_s: float) -> str | None:
    """Boot a state; return the digest of the kernel that was tried, ``""`` where the loader had none, None in time."""
    fat, disk = work / "fat.img", work / "disk.raw"
    write_image(fat, recording.facts["size_mib"] << 20, recording.base, add_loader(recording.base, changed))
    put_on_disk(fat, disk)
    return Ovmf(work).start(["-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}"], timeout_s=timeout_s)


def has_loader(recording: Recording) -> bool:
    """Tell whether there is room for systemd-boot on it, and a kernel of which it says that it is no program.

    A UKI of a lab host is one, and says nothing.
    """
    facts = recording.facts
    is_asked = facts["loader"] == "systemd-boot" and "uki" not in facts["host"]
    return bool(facts["options"]) and is_asked and facts["free"] is None


def _is_torn(recording: Recording, changed: Mapping[int, bytes], tried: str) -> bool:
    """Tell whether no entry names this image: its kernel is started from half an entry, and finds no root."""
    fat = Fat(recording.base, changed)
    files = {path: data for path, entry in fat.files().items() if (data := fat.read(entry)) is not None}
    return all(entry.digest != tried for entry in list_menu(Loader.SYSTEMD_BOOT, files))


def ask_samples(recordings: Iterable[Recording], *, each: int, timeout_s: float, seed: int) -> Counter[str]:
    """Boot states of every class of every recording that has a loader; print and count what came out."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="bootc-fast-powercut.") as scratch:
        for one in recordings:
            facts = one.facts
            if not has_loader(one):
                continue
            seen: Counter[tuple[object, ...]] = Counter()
            for cut, verdict in judged_states(one, randoms=10, seed=seed):
                kind = (verdict.boots, verdict.notes, verdict.problems)
                seen[kind] += 1
                if seen[kind] > each:
                    continue
                tried = ask_firmware(one, cut.changed, Path(scratch), timeout_s=timeout_s)
                said = {facts["old"]: "old", facts["new"]: "new", "": None}.get(tried or "", tried)
                if said is not None and verdict.boots is None and _is_torn(one, cut.changed, str(tried)):
                    said = None
                outcome = "as judged" if said == verdict.boots and tried is not None else "otherwise"
                outcomes[outcome] += 1
                print(f"{facts['name']} {cut.name}: {outcome}: {said}; judged {verdict}", flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(RECORDINGS.glob("*.xz")))
    parser.add_argument("--only", nargs="*", default=[""], help="what a recording's name begins with")
    parser.add_argument("--each", type=int, default=1, help="states of each class (1)")
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recordings = [
        one for path in arguments.files for name, one in load(path).items() if name.startswith(tuple(arguments.only))
    ]
    print(ask_samples(recordings, each=arguments.each, timeout_s=arguments.timeout, seed=arguments.seed))


if __name__ == "__main__":
    main()
