"""Everything that parses strangers' bytes in Python is fuzzed, coverage-guided, for some seconds each.

``FUZZ_SECONDS`` says how many (5 by default, in ``make test``; ``make fuzz`` asks for 30), ``FUZZ_CORPUS`` where what
is learnt is kept. Two targets run at a time. A machine without atheris fails here: nothing is left out silently.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))
CORPUS = os.environ.get("FUZZ_CORPUS")
AT_A_TIME = 2
START_S = 120
"""A loaded machine takes its time to import and instrument the package."""
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, subprocess.CompletedProcess[str]]:
    """What the run of each target said that a test asks for."""
    here = [
        item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module
    ]
    names = [item.callspec.params["name"] for item in here]
    base = tmp_path_factory.mktemp("fuzz")

    def play(name: str) -> subprocess.CompletedProcess[str]:
        corpus = Path(CORPUS, name) if CORPUS else base / name
        corpus.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "fuzz.play", name, f"-max_total_time={SECONDS}"]
        argv += [f"-artifact_prefix={base}/", "-verbosity=1", str(corpus)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(base)}
        return subprocess.run(
            argv, cwd=TESTS, env=environment, capture_output=True, text=True, errors="replace", check=False,
            timeout=SECONDS + START_S,
        )  # fmt: skip

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(names, pool.map(play, names), strict=True))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_the_invariant_holds(name: str, played: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = played[name]
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    # A target that ran not once, or that no coverage comes from, would prove nothing.
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", said)
    assert executed is not None, said[-6000:]
    assert int(executed[1]) > len(TARGETS[name].seeds()), said[-6000:]
    assert "no interesting inputs were found" not in said
