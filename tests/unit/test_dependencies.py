"""docs/dependencies.md: every dependency has its line, and what root runs needs no others."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ ;\[]", one)[0] for one in requirements}


def _listed(heading: str) -> dict[str, list[str]]:
    """Rows of the table below a heading, by their first cell."""
    section = (REPOSITORY / "docs/dependencies.md").read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in rows[2:]}


def test_every_python_dependency_has_its_line_and_no_other_is_there() -> None:
    assert _listed("Python, the base").keys() == _names(_PROJECT["dependencies"])
    extras = [one for needed in _PROJECT["optional-dependencies"].values() for one in needed]
    assert _listed("Python, extras").keys() == _names(extras)


def test_every_crate_has_its_line_and_no_other_is_there() -> None:
    needed: set[str] = set()
    for crate in ("core", "sys", "py"):
        needed |= tomllib.loads((REPOSITORY / f"rust/{crate}/Cargo.toml").read_text())["dependencies"].keys()
    assert _listed("Rust").keys() == {name for name in needed if not name.startswith("bootc-fast-")}


def test_every_line_has_a_size_a_licence_and_a_reason() -> None:
    for heading in ("Python, the base", "Python, extras", "Rust"):
        for name, row in _listed(heading).items():
            assert len(row) == 4, name
            assert re.fullmatch(r"[\d,]+", row[1]), name
            assert all(row), name


def test_locks_have_what_is_declared_and_the_base_has_nothing_that_was_left_out() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (REPOSITORY / "requirements/runtime.lock").read_text(), re.MULTILINE))
    assert {name.lower() for name in _names(_PROJECT["dependencies"])} <= pinned
    gone = {name for row in _listed("Left out") for name in re.findall(r"[\w-]+", row)}
    assert not (gone | {"pyyaml", "xattr"}) & pinned


def test_no_module_but_the_lab_imports_an_extra_before_it_is_asked_for(tmp_path: Path) -> None:
    """All that the base has is imported where extras are not there."""
    code = (
        "import sys, pkgutil, importlib, bootc_fast\n"
        "for name in ('yaml', 'xattr', 'gi'): sys.modules[name] = None\n"
        "for found in pkgutil.walk_packages(bootc_fast.__path__, 'bootc_fast.'):\n"
        "    if '__main__' not in found.name: importlib.import_module(found.name)\n"
        "print(len([name for name in sys.modules if name.startswith('bootc_fast.')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 100
