"""boot/loaders/table.py: every loader has its record, nobody else asks which loader it is, and how one is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bootc_fast
from bootc_fast.boot.loaders import table
from bootc_fast.types import Loader

PACKAGE = Path(bootc_fast.__file__).parent
# The lab plays the loaders, and knows them on its own, on purpose.
OWN_KNOWLEDGE = ("boot/loaders", "lab")


def test_every_loader_has_its_own_record() -> None:
    records = [table.record_of(loader) for loader in Loader]
    assert [record.loader for record in records] == list(Loader)
    assert len({record.status_name for record in records}) == len(records)
    assert {rule.name for record in records for rule in record.rules} == {rule.name for rule in table.list_rules()}


def _names_a_loader(node: ast.AST) -> bool:
    """``Loader.GRUB``, ``systemd_boot.RULE``, ``"grub-cc"``, a tuple with one of these."""
    return any(
        (isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in ("Loader", "OrderRule"))
        or (isinstance(one, ast.Attribute) and one.attr in ("RULE", "RECORD"))
        or (isinstance(one, ast.Constant) and one.value in set(Loader))
        for one in ast.walk(node)
    )


def _find_branches(source: str) -> list[int]:
    """Lines that decide something by which loader it is: comparisons, match cases, and dicts with loaders as keys."""
    found: list[int] = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        if any(part is not None and _names_a_loader(part) for part in parts):
            found.append(node.lineno if isinstance(node, (ast.expr, ast.MatchValue)) else 0)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "x = loader is Loader.GRUB",
        "x = Loader.GRUB != loader",
        "x = loader in (Loader.GRUB, Loader.GRUB_CC)",
        "x = str(loader) == 'grub-cc'",
        "x = {Loader.GRUB: 1}[loader]",
        "match loader:\n    case Loader.GRUB:\n        pass",
        "x = menu.rule is systemd_boot.RULE",
    ],
)
def test_a_branch_on_a_loader_is_found(source: str) -> None:
    assert len(_find_branches(source)) == 1


def test_nobody_but_the_loaders_own_files_asks_which_loader_it_is() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if not str(path.relative_to(PACKAGE)).startswith(OWN_KNOWLEDGE)
        if (lines := _find_branches(path.read_text()))
    }
    assert found == {}


NOTHING = table.LoaderEvidence(esp_has_entries=False, boot_has_grub=False, boot_has_entries=False)
ON_ESP = table.LoaderEvidence(esp_has_entries=True, boot_has_grub=False, boot_has_entries=False)
GRUB = table.LoaderEvidence(esp_has_entries=False, boot_has_grub=True, boot_has_entries=True)
BOTH = table.LoaderEvidence(esp_has_entries=True, boot_has_grub=True, boot_has_entries=True)


@pytest.mark.parametrize(
    ("info", "evidence", "loader", "is_reported"),
    [
        ("systemd-boot 257", ON_ESP, Loader.SYSTEMD_BOOT, False),
        ("systemd-boot 257", BOTH, Loader.SYSTEMD_BOOT, False),
        ("systemd-boot 257", NOTHING, Loader.SYSTEMD_BOOT, False),
        ("systemd-boot 257", GRUB, Loader.GRUB, True),
        ("GRUB CC 1", ON_ESP, Loader.GRUB_CC, False),
        ("GRUB 2.12", GRUB, Loader.GRUB, False),
        ("GRUB 2.12", ON_ESP, Loader.SYSTEMD_BOOT, True),
        ("something else", BOTH, Loader.GRUB, False),
        (None, GRUB, Loader.GRUB, False),
        (None, BOTH, Loader.GRUB, False),
        (None, NOTHING, Loader.GRUB, False),
        (None, ON_ESP, Loader.SYSTEMD_BOOT, True),
    ],
)
def test_the_variable_is_a_hint_that_the_disk_confirms(
    info: str | None, evidence: table.LoaderEvidence, loader: Loader, *, is_reported: bool
) -> None:
    chosen, warnings = table.choose_loader(info, evidence)
    assert chosen is loader
    assert bool(warnings) is is_reported
