"""Options of the benchmarks, and where their results go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benches.contest import Contest, Contestant, run_contest, write_contests

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path("build/bench.json")
_contests = pytest.StashKey[list[Contest]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sizes of the benchmarks")
    group.addoption("--etc-files", default="1000,10000,100000", help="files in /etc to plan for, comma-separated")
    group.addoption("--merge-files", type=int, default=100_000, help="files in the /etc whose merge is written")
    group.addoption("--finalize-files", type=int, default=2000, help="files in /etc of the host that is finalized")
    group.addoption("--digest-mib", type=int, default=1024, help="size of the large file")
    group.addoption("--image-entries", type=int, default=1_000_000, help="entries of the image that is dumped")
    group.addoption("--rounds", type=int, default=7, help="rounds of every contest")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_contests] = []
    # As installed: compiled once, whatever the caller's environment says.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path("build/bench-pycache").absolute())


def pytest_sessionfinish(session: pytest.Session) -> None:
    contests = session.config.stash[_contests]
    if contests:
        write_contests(contests, RESULTS)


@pytest.fixture
def hold_contest(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run a contest and keep its results for the report."""
    rounds = int(request.config.getoption("--rounds"))

    def hold(title: str, contestants: list[Contestant], *, note: str = "") -> None:
        request.config.stash[_contests].append(run_contest(title, contestants, rounds=rounds, note=note))

    return hold


@pytest.fixture(scope="session")
def memory_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in memory where there is one: no disk decides, and syncing is free."""
    shared = Path("/dev/shm")  # noqa: S108 the name of the file system, and what is made in it has a unique name
    if not os.access(shared, os.W_OK):
        return tmp_path_factory.mktemp("memory")
    path = shared / f"bootc-fast-bench-{os.getpid()}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="session", autouse=True)
def _clean_memory_directory(memory_directory: Path) -> object:
    yield
    shutil.rmtree(memory_directory, ignore_errors=True)
    return None
