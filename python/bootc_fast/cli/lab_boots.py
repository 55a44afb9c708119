"""``bootc-fast lab boot``: boots of a lab host as they come one after the other, with what start-up runs in them.

The lab is firmware, loader and kernel; health checks and what follows at the end of a boot are the program's own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import UsageError
from bootc_fast.flows.boot_complete import report_last_finalize
from bootc_fast.flows.health import judge_health
from bootc_fast.lab.firmware import boot
from bootc_fast.machine.host import open_host
from bootc_fast.records import dataclass
from bootc_fast.text import shorten_digest
from bootc_fast.trial.states import TrialState, read_states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.lab import Bootup, LabHost

MAX_BOOTS = 32
"""A host on which nobody counts boots would panic for ever."""
_CHECK = "usr/lib/bootc-fast/health.d/required.d/lab"
_RUNS, _RESTARTS, _STAYS, _PANICS = "runs", "not healthy, reboots", "not healthy, stays up", "panics, reboots"


@dataclass(frozen=True, slots=True)
class LabBoot:
    """One boot.

    Attributes:
        bootup: What the loader took.
        ended: How it ended, in words.
        consequence: Why, in words; may be empty.
    """

    bootup: Bootup
    ended: str
    consequence: str = ""


@dataclass(frozen=True, slots=True)
class LabBoots:
    """Boots, and what the last one told about earlier ones."""

    boots: tuple[LabBoot, ...]
    told: tuple[str, ...] = ()


def boot_once(host: LabHost) -> LabBoots:
    """Boot, and run nothing."""
    return LabBoots((LabBoot(boot(host), _RUNS),))


def boot_healthy(host: LabHost, before: tuple[LabBoot, ...] = ()) -> LabBoots:
    """Boot, and run what start-up runs: health checks, then boot-complete."""
    return _start_up(host, boot(host), before)


def boot_unhealthy(host: LabHost, number: int) -> LabBoots:
    """Boot as often with a health check that fails, then once with none; what is not on trial stays up.

    Args:
        host: Where.
        number: How often it fails, 1 … `MAX_BOOTS`.

    Raises:
        UsageError: `number` is out of range.
    """
    if not 1 <= number <= MAX_BOOTS:
        raise UsageError(f"--fails takes a number from 1 to {MAX_BOOTS}")
    boots: tuple[LabBoot, ...] = ()
    for _ in range(number):
        bootup = boot(host)
        with _failing_check(host):
            outcome = run_async(lambda: judge_health(host.root, restart=_reboot))
        boots = (*boots, LabBoot(bootup, _RESTARTS if outcome.restarts else _STAYS, outcome.consequence))
        if not outcome.restarts:
            return LabBoots(boots)
    return boot_healthy(host, boots)


def encode_boots(found: LabBoots) -> dict[str, object]:
    """As JSON has them."""
    return {
        "boots": [
            {
                "digest": one.bootup.digest,
                "previous": one.bootup.previous,
                "entry": one.bootup.entry,
                "reason": one.bootup.reason,
                "ended": one.ended,
                "consequence": one.consequence,
            }
            for one in found.boots
        ],
        "told": list(found.told),
    }


def render_boots(found: LabBoots) -> list[str]:
    """For people: a line for each boot that did not last, then the last one."""
    lines = []
    for one in found.boots[:-1]:
        why = f": {one.consequence}" if one.consequence else ""
        lines.append(f"Booted {shorten_digest(one.bootup.digest)} ({one.bootup.entry}): {one.ended}{why}")
    last = found.boots[-1]
    again = " again" if last.bootup.digest == last.bootup.previous else ""
    lines += [f"Booted{again}: {last.bootup.digest}", f"Entry: {last.bootup.entry} ({last.bootup.reason})"]
    if last.ended != _RUNS:
        lines.append(f"It is {last.ended}{f': {last.consequence}' if last.consequence else ''}")
    return [*lines, *found.told]


async def _reboot(_message: str) -> None:
    """The next boot is the caller's."""


def boot_panicking(host: LabHost) -> LabBoots:
    """Boot until something runs that is not on trial: what is on trial panics before anything of it runs.

    Raises:
        UsageError: It would panic for ever, since nobody counts.
    """
    boots: tuple[LabBoot, ...] = ()
    while len(boots) < MAX_BOOTS:
        bootup = boot(host)
        record = read_states(open_host(host.root))[0].get(bootup.digest)
        if record is None or record.state is not TrialState.TRIAL:
            return _start_up(host, bootup, boots)
        boots = (*boots, LabBoot(bootup, _PANICS))
    raise UsageError(f"{host.root}: what is on trial panicked {MAX_BOOTS} times, and nobody counts its boots")


def _start_up(host: LabHost, bootup: Bootup, before: tuple[LabBoot, ...]) -> LabBoots:
    if not run_async(lambda: judge_health(host.root)).is_healthy:
        return LabBoots((*before, LabBoot(bootup, _STAYS)))
    report = run_async(lambda: report_last_finalize(host.root))
    return LabBoots((*before, LabBoot(bootup, _RUNS)), report.lines if report is not None else ())


@contextmanager
def _failing_check(host: LabHost) -> Iterator[None]:
    """A required health check that fails; it goes again."""
    path = host.root / _CHECK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho 'not healthy, as `lab boot --fails` asks for'\nexit 1\n")
    path.chmod(0o755)
    try:
        yield
    finally:
        path.unlink()
