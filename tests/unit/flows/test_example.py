"""examples/finalize_in_nursery.py, on trio and on asyncio; and the package's public names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import flowkit
import pytest

import bootc_fast
from bootc_fast import events

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLE = Path(__file__).parents[3] / "examples/finalize_in_nursery.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finalize_in_nursery", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(backend: str, function: Any) -> Any:
    return anyio.run(function, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_it_finalizes_next_to_other_work_and_draws_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], example: ModuleType, backend: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    answer = _run(backend, partial(example.finalize_with_progress, str(case.root), 30))
    assert answer.startswith("done: next boot bootc_")
    assert "Merging /etc" in capsys.readouterr().err
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_it_gives_up_after_its_time_and_the_next_boot_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: ModuleType, backend: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")

    async def hang(*_args: object, **_kwargs: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr("bootc_fast.flows.finalize_run.plan_merge", hang)
    answer = _run(backend, partial(example.finalize_with_progress, str(case.root), 0.3))
    assert answer.startswith("gave up after 0.3 s: the next boot is what it was; the other task ran ")
    assert int(answer.rsplit(" ", 3)[1]) > 3
    assert flowkit.next_boot(case.host) == case.booted


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    done = subprocess.run([sys.executable, EXAMPLE, case.root], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("done: next boot ")) == (0, True)
    failed = subprocess.run([sys.executable, EXAMPLE, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert (failed.returncode, "error: opening the host in" in failed.stderr) == (1, True)


async def test_a_full_or_abandoned_channel_drops_events_and_slows_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    send, receive = anyio.create_memory_object_stream[events.Event](1)
    with send:
        sink = bootc_fast.channel_sink(send)
        assert (await bootc_fast.finalize_staged(case.root, on_event=sink)).staged == case.staged
        receive.close()
        assert (await bootc_fast.rollback(case.root, on_event=sink)).is_revert


def test_every_public_name_is_there_and_importing_the_package_imports_nothing_else() -> None:
    for name in bootc_fast.__all__:
        assert getattr(bootc_fast, name) is not None
        assert name in dir(bootc_fast)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bootc_fast.nothing  # type: ignore[attr-defined]
    code = "import sys, bootc_fast; sys.exit(len([n for n in sys.modules if n.startswith('bootc_fast.')]))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rollback_stays_a_function_whatever_is_imported() -> None:
    code = "import bootc_fast.flows.rollback, bootc_fast; from bootc_fast import rollback; assert callable(rollback)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
