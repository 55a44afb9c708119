"""What every test gets: a check that it left nothing behind, and how many tests of each kind ran."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import missing_tools
import pytest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator


def _mounts() -> dict[str, str]:
    """Where each mount is; tools/test gives root a mount namespace of its own, so they are ours. Others cannot mount.

    By the mounts' numbers: whoever renames a directory above a mount that was there before changes its place.
    """
    if os.geteuid() != 0:
        return {}
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {number: place for number, _, _, _, place, *_ in map(str.split, lines)}


def _loops() -> set[str]:
    """Loop devices over files of this run; others come and go on a machine that does more than test."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    found = set()
    for path in files:
        try:
            backing = path.read_text()
        except OSError:  # went away just now
            continue
        if backing.startswith(tempfile.gettempdir()):
            found.add(path.parent.parent.name)
    return found


def _processes() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        # Pools and runtimes keep these open between tests on purpose.
        if not target.startswith(("anon_inode:", "pipe:", "socket:", "/dev/", "/proc/")):
            found.add(f"{number}:{target}")
    return found


def _temporaries() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if not name.startswith("pytest-of-")}


# How long an example takes is for the benchmarks to say: a machine that plays tests side by side is slow at times.
hypothesis.settings.register_profile("bootc-fast", deadline=None)
hypothesis.settings.load_profile("bootc-fast")


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a temporary directory of its own, also its children: then all that is left in it is a leak."""
    directory = tempfile.mkdtemp(prefix="bootc-fast-tests.")
    os.environ["TMPDIR"] = directory
    tempfile.tempdir = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Generator[None]:
    def look() -> tuple[set[str], ...]:
        return _loops(), _descriptors(), _temporaries(), _processes()

    mounts, before = _mounts(), look()
    yield
    if request.node.stash.get(_SKIPPED_MIDWAY, False):
        # Whatever it had begun is left as it was.
        return
    gc.collect()
    after = look()
    names = ("loop devices", "descriptors", "temporary files", "processes")
    leaks = {name: sorted(new - old) for name, old, new in zip(names, before, after, strict=True) if new - old}
    if left := [place for number, place in _mounts().items() if number not in mounts]:
        leaks["mounts"] = left
    assert not leaks, f"left behind: {leaks}"


@pytest.fixture(scope="session", autouse=True)
def _commands_keep_to_their_exit_codes() -> Generator[None]:
    """What help and man pages say of a command is true of every one that a test runs in this process."""
    from bootc_fast.cli import runtime
    from bootc_fast.cli.exit_status import EXIT_STATUS
    from bootc_fast.cli.parser import COMMANDS

    names = {name: command.name for command in COMMANDS for name in (command.name, *command.aliases)}
    real = runtime.call_guarded

    def call_guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
        code = real(run, arguments)
        if name := names.get(getattr(arguments, "command_name", "")):
            assert code in EXIT_STATUS[name].codes, f"{name} ended with {code}, which cli/exit_status.py has not"
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "call_guarded", call_guarded)
        yield


def _kind(item_markers: set[str]) -> str:
    if "vm" in item_markers:
        return "machine"
    return "kernel" if "root" in item_markers else "directory"


_SKIPPED_MIDWAY = pytest.StashKey[bool]()


@contextmanager
def _skipping_without_tools() -> Generator[None]:
    """Skip the test where a tool is not here that `make test` would have installed; there, it fails."""
    try:
        yield
    except Exception as error:
        reason = None if missing_tools.is_required() else missing_tools.explain(error)
        if reason is None:
            raise
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        with _skipping_without_tools():
            return (yield)
    except pytest.skip.Exception:
        item.stash[_SKIPPED_MIDWAY] = True
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with _skipping_without_tools():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    with _skipping_without_tools():
        return (yield)


_RAN = {"directory": 0, "kernel": 0, "machine": 0}
_SKIPPED = {"directory": 0, "kernel": 0, "machine": 0}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None]]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    kind = _kind({mark.name for mark in item.iter_markers()})
    if report.skipped:
        _SKIPPED[kind] += 1
    elif report.when == "call":
        _RAN[kind] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{kind} {_RAN[kind]} ran {_SKIPPED[kind]} skipped" for kind in _RAN)
    # tools/test runs several of us side by side, and adds up.
    if file := os.environ.get("BOOTC_FAST_TEST_COUNTS"):
        lines = [f"{kind} {_RAN[kind]} {_SKIPPED[kind]}\n" for kind in _RAN]
        Path(f"{file}.{os.getpid()}").write_text("".join(lines))
    terminalreporter.write_line(f"tests of each kind: {counts}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None if missing_tools.is_required() else missing_tools.explain_ostree()
    for item in items if reason else ():
        # Their hosts are libostree's; a command that ends without it says so in its output only.
        if missing_tools.OSTREE_NAMES & set(vars(getattr(item, "module", None) or object)):
            item.add_marker(pytest.mark.skip(reason=reason))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
