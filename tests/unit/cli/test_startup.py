"""What a command does not import: start-up is a promise, whose limits ``bench_startup`` measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bootc_fast
from bootc_fast import lab
from bootc_fast.types import Loader

SOURCE = str(Path(bootc_fast.__file__).parents[1])
_CODE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); before = set(sys.modules); from bootc_fast.cli import main; "
    "code = main(); import json; print(json.dumps([code, sorted(set(sys.modules) - before)]))"
)
_OURS = "bootc_fast."


def _imported(*argv: str | Path, site: bool = False) -> set[str]:
    """Run a command in a process of its own; return the modules that it imported."""
    options = "-Ic" if site else "-ISc"
    done = subprocess.run([sys.executable, options, _CODE, SOURCE, *argv], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stdout + done.stderr
    return set(modules)


def test_a_finalize_of_nothing_needs_no_library_and_little_of_pythons(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "host")
    # Without site nothing but the standard library can be imported.
    modules = _imported("--root", host.root, "finalize")
    assert not modules & {"typing", "shutil", "dataclasses", "inspect", "configparser", "subprocess", "datetime"}
    ours = {name for name in modules if name.startswith(_OURS)}
    assert not {name for name in ours if name.startswith(("bootc_fast.flows.", "bootc_fast.boot.", "bootc_fast.etc"))}
    assert len(ours) < 30


def test_status_imports_what_it_looks_at_and_not_what_writes(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "host")
    modules = _imported("--root", host.root, "status", site=True)
    ours = {name.removeprefix(_OURS) for name in modules if name.startswith(_OURS)}
    assert "flows.status" in ours
    writes = ("boot.area.fat", "boot.counting.grub", "boot.entries.p", "boot.loaders.grub", "ostree.", "trial.network")
    # How many bytes a name's slots take: arithmetic.
    assert {name for name in ours if name.startswith(writes)} == {"boot.area.fat_slots"}
    assert not ours & {"composefs.etc", "etc.merge", "machine.lock", "lab"}


def test_under_grub_status_imports_how_grub_counts_alone(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "host", loader=Loader.GRUB)
    ours = {name.removeprefix(_OURS) for name in _imported("--root", host.root, "status", site=True)}
    assert "boot.loaders.grub" in ours
    assert "boot.counting.systemd_boot" not in ours


def test_a_command_starts_no_process_of_its_own_and_names_its_threads(tmp_path: Path) -> None:
    host = lab.make_host(tmp_path / "host")
    code = (
        "import sys; sys.addaudithook(lambda event, what: event in ('subprocess.Popen', 'os.fork', 'os.posix_spawn') "
        "and sys.exit(f'{event} {what}')); "
        f"{_CODE}; import trio._core._thread_cache as cache; print(cache.set_os_thread_name is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-Ic", code, SOURCE, "--root", host.root, "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True"
