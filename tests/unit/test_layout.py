"""The rooms of the package: exactly those of the design, and nothing hides in them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import bootc_fast

TOP = Path(__file__).parents[2]
PACKAGE = Path(bootc_fast.__file__).parent
# What docs/architecture.md leads through. A new room needs a place in the import contract, there and here.
ROOMS = {
    ".", "boot", "boot/area", "boot/counting", "boot/efi", "boot/entries", "boot/loaders", "cli", "composefs", "etc",
    "flows", "lab", "machine", "ostree", "report", "restart", "trial",
}  # fmt: skip
GROUND = {"__main__", "errors", "events", "message_ids", "records", "text", "types"}


def _modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def test_the_rooms_are_those_of_the_design_and_none_is_empty() -> None:
    found = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("__init__.py")}
    assert found == ROOMS
    counts = {room: sum(str(path.parent.relative_to(PACKAGE)) == room for path in _modules()) for room in ROOMS}
    # boot has rooms only.
    assert {room for room, count in counts.items() if not count} == {"boot"}
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == GROUND


def test_no_module_but_the_core_begins_with_an_underscore() -> None:
    hidden = {path.name for path in PACKAGE.rglob("_*") if path.suffix in (".py", ".pyi", ".so") or path.is_dir()}
    assert {name for name in hidden if not name.startswith("__") and not name.startswith("_core.")} == set()


def test_the_reason_of_a_failed_system_call_is_told_by_its_owner() -> None:
    """``strerror`` is None where an OSError was raised with a text: nobody puts it into a message."""
    asked = {
        path.relative_to(PACKAGE).as_posix()
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "strerror"
        and not (isinstance(node.value, ast.Name) and node.value.id == "os")
    }
    assert asked == {"text.py"}


def test_packages_import_nothing_that_they_do_not_name_as_their_own() -> None:
    """Start-up is a promise; the command line and the lab are entered by their packages, all others are bare."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent in (PACKAGE, PACKAGE / "cli", PACKAGE / "lab"):
            continue
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path


def test_what_runs_and_whose_origin_it_is_are_told_by_their_owners() -> None:
    """Digest to deployment, and booted with marker: one place each, the quick look of a finalize apart."""
    searching, reading = set(), set()
    for path in _modules():
        where = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and node.id in {"read_marker", "list_deployments"}:
                reading.add(where)
            if isinstance(node, ast.GeneratorExp) and ast.unparse(node).startswith(("(one for one", "(one.origin for")):
                searching |= {where for one in node.generators if ast.unparse(one.iter).endswith(".deployments")}
    assert searching == {"composefs/survey.py"}
    assert reading == {"composefs/survey.py", "flows/finalize.py", "cli/cmd_finalize.py"}


def test_the_contract_knows_every_room() -> None:
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {one["containers"][0]: one for one in contracts}
    assert all(one["exhaustive"] for one in layers.values())
    named = {name.strip(" ()") for layer in layers["bootc_fast"]["layers"] for name in layer.split("|")}
    assert named == {room for room in ROOMS - {"."} if "/" not in room} | (GROUND - {"__main__"}) | {"_core"}
    assert {f"boot/{name}" for name in layers["bootc_fast.boot"]["layers"]} == {
        r for r in ROOMS if r.startswith("boot/")
    }


def test_the_picture_shows_the_contract() -> None:
    done = subprocess.run([sys.executable, TOP / "tools/draw-layers", "--check"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_tour_leads_through_every_room() -> None:
    tour = (TOP / "docs/architecture.md").read_text()
    assert {room for room in ROOMS - {".", "boot"} if f"**{room}**" not in tour} == set()
    assert "(layers.svg)" in tour
