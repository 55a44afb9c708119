"""Stories are played before the first test that looks at one, side by side: a machine keeps one processor busy."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from vm.machine import PLAYED, STALLED_BOOTS
from vm.package import make_installed_tree
from vm.story import Story

if TYPE_CHECKING:
    from types import ModuleType

_PARALLEL = 2


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[ModuleType, Future[Story]]:
    """Play the stories of all modules that are to run and have a ``play_story``; all have ended when it returns.

    One that failed fails the tests of its module, not the others.
    """
    modules = list(
        dict.fromkeys(
            item.module
            for item in request.session.items
            if isinstance(item, pytest.Function) and hasattr(item.module, "play_story")
        )
    )
    make_installed_tree()
    works = [tmp_path_factory.mktemp(module.__name__.rpartition(".")[2]) for module in modules]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        futures = [pool.submit(module.play_story, work) for module, work in zip(modules, works, strict=True)]
    return dict(zip(modules, futures, strict=True))


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest, played: dict[ModuleType, Future[Story]]) -> Story:
    """What happened in this module's story."""
    return played[request.module].result()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, boots, seconds in PLAYED:
        terminalreporter.write_line(f"story {name}: {boots} boots in {seconds:.0f} s")
    for stall in STALLED_BOOTS:
        terminalreporter.write_line(f"started again, since QEMU stalled before systemd: {stall}")
