"""The same verdict as the loader's: some 300 generated files, of which EDK II and shim have said what they think.

``tools/secure-boot-verdicts`` asks them anew.
"""

from __future__ import annotations

from collections import Counter

import pytest
from secureboot import verdicts

LEAST = {"firmware": 102, "shim": 40}


@pytest.fixture(scope="module", params=list(verdicts.MAKERS))
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rows(loader: str) -> list[verdicts.Row]:
    suite = verdicts.MAKERS[loader]()
    recorded = verdicts.read_record()[loader]
    assert {name: verdicts.digest(data) for name, data in suite.cases.items()} == {
        name: one["file"] for name, one in recorded.items()
    }, "the generated files are other ones than those that were judged: tools/secure-boot-verdicts"
    return verdicts.compare(suite, {name: one["verdict"] for name, one in recorded.items()})


def test_every_file_is_judged_as_the_loader_judged_it(loader: str, rows: list[verdicts.Row]) -> None:
    differing = {row.name: (row.loader, row.ours, row.reason) for row in rows if row.loader != row.ours}
    unexplained = {name: one for name, one in differing.items() if name not in verdicts.EXPLAINED[loader]}
    assert unexplained == {}
    # An explanation of what no longer differs explains nothing.
    assert set(verdicts.EXPLAINED[loader]) == set(differing)


def test_no_file_that_the_loader_refuses_is_accepted(rows: list[verdicts.Row]) -> None:
    """Without exception: such a machine would stand still."""
    assert [row.name for row in rows if row.ours == "accept" and row.loader != "accept"] == []


def test_there_are_enough_files_of_both_kinds(loader: str, rows: list[verdicts.Row]) -> None:
    counts = Counter(row.loader for row in rows)
    assert len(rows) >= LEAST[loader]
    assert min(counts["accept"], counts["refuse"]) > len(rows) // 4
    assert set(counts) == {"accept", "refuse"}


def test_a_refusal_says_why(rows: list[verdicts.Row]) -> None:
    assert [row.name for row in rows if row.ours == "refuse" and not row.reason] == []
