"""Every system call of finalize and rollback on a host's files fails once, or the program is killed before it.

The calls are counted in an undisturbed run. Here a stride takes a sample, at other calls for every error; with
``BOOTC_FAST_FAULTS=once`` (`make faults`) every call fails once, the errors taking turns, with ``all`` it gets every
error. What has to hold is `scene.py`'s to say.
"""

from __future__ import annotations

import collections
import errno
from typing import TYPE_CHECKING

import pytest
from faults.runner import CHANGES, READS, Runner
from faults.scene import ARGV, FORMS, Scene

if TYPE_CHECKING:
    from faults.conftest import Scratch

ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES", "EINTR", "ETIMEDOUT")
SAMPLE = 5
"""How many calls get an error where not all do."""


def _numbers(calls: int, name: str, scratch: Scratch) -> range:
    """Which calls are disturbed in this way, of about so many."""
    which = [*ERRORS, "KILL"].index(name)
    if scratch.plays_all:
        in_turn = name in ERRORS and not scratch.every_error
        return range(1 + which, calls + 3, len(ERRORS)) if in_turn else range(1, calls + 3)
    stride = max(1, calls // SAMPLE)
    # Beyond the last, since calls of threads come in another number every time.
    return range(1 + which * stride // (len(ERRORS) + 1), calls + 3, stride)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("flow", ARGV)
@pytest.mark.parametrize("form", FORMS)
def test_whatever_fails_or_kills_the_host_boots_whole_and_a_rerun_converges(
    scratch: Scratch, form: str, flow: str
) -> None:
    table: collections.Counter[tuple[str, str]] = collections.Counter()
    problems: list[str] = []
    with Runner(scratch.path) as runner:
        scene = Scene.build(runner, scratch.path, form, flow)
        faults = [(name, getattr(errno, name), CHANGES | READS) for name in ERRORS] + [("KILL", 0, CHANGES)]
        for name, number, kinds in faults:
            calls = scene.calls if kinds & READS else scene.changes
            for at in _numbers(calls, name, scratch):
                ran, outcome, wrong = scene.disturb(at=at, error=number, kinds=kinds)
                if not ran.call:
                    break
                table[name, outcome] += 1
                problems += [f"{name} at {at}, {ran.call} {ran.path}: {one}" for one in wrong]
    for (name, outcome), count in sorted(table.items()):
        print(f"{scene.name} | {name} | {outcome} | {count}")  # noqa: T201 `make faults` shows it
    assert {name for name, _outcome in table} == {name for name, _number, _kinds in faults}
    assert not problems, "\n".join(problems[:20])


@pytest.mark.timeout(0)
@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_opened_is_called_unreadable_and_never_missing(scratch: Scratch, form: str) -> None:
    """Each file and directory once, at its first opening: a sample by strides meets few of them."""
    problems: list[str] = []
    with Runner(scratch.path) as runner:
        scene = Scene.build(runner, scratch.path, form, "rollback")
        first: dict[str, int] = {}
        for line in scene.log.splitlines():
            number, call, path = line.split(" ", 2)
            if call.startswith("openat"):
                first.setdefault(path, int(number))
        assert len(first) > 20
        for path, at in first.items():
            scene.fresh()
            ran = runner.run(scene.root, ARGV["rollback"], at=at, error=errno.EIO)
            _outcome, wrong = scene.judge(ran, errno.EIO)
            problems += [f"{at}, {ran.call} {path}: {one}" for one in wrong]
    assert not problems, "\n".join(problems)
