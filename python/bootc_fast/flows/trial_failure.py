"""What follows where what is on trial is not healthy: a reboot, so that the boot loader tries it again or falls back.

There is no loop: it reboots only where the loader counts the next try, or boots another deployment next.

Source:
    Spec trial.md, "Health": "Failure on trial".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bootc_fast.boot.counting.table import counter_of
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import read_survey
from bootc_fast.errors import BootcFastError, NotBootcHostError
from bootc_fast.flows.counting import make_count_context
from bootc_fast.flows.steps import single_error
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass
from bootc_fast.text import count, describe_error, flatten, shorten_digest
from bootc_fast.trial.states import TrialState, read_states
from bootc_fast.trial.trial_policy import OnFailure, TrialPolicy, read_trial_policy

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.machine.host import Host
    from bootc_fast.trial.states import TrialRecord
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows.

    Attributes:
        restarts: The machine is to reboot through the firmware.
        reason: Why, or why not, in words; empty where what runs is not on trial: then nobody expects anything.
        warnings: What could not be read.
    """

    restarts: bool = False
    reason: str = ""
    warnings: tuple[str, ...] = ()


def decide_consequence(
    booted: VerityDigest,
    record: TrialRecord | None,
    trial: RunningTrial | None,
    next_entry: MenuEntry | None,
    policy: TrialPolicy,
) -> Consequence:
    """Decide; pure.

    Args:
        booted: What runs, and is not healthy.
        record: What was noted of it.
        trial: What the boot loader has of it; where nothing was noted, that alone says that it is on trial.
        next_entry: What the loader boots next.
        policy: What the admin says.
    """
    is_on_trial = record.state is TrialState.TRIAL if record is not None else trial is not None
    if not is_on_trial:
        return Consequence()
    if policy.on_failure is OnFailure.STAY:
        return Consequence(reason='it stays up, since trial.toml says `on-failure = "stay"`')
    if trial is not None and trial.tries_left:
        return Consequence(restarts=True, reason=f"it is tried {count(trial.tries_left, 'more times')}")
    if next_entry is not None and next_entry.is_own and next_entry.digest not in {None, booted}:
        return Consequence(restarts=True, reason=f"deployment {shorten_digest(next_entry.digest or '')} boots next")
    return Consequence(reason="it stays up, since it would boot again, without its boots being counted")


async def find_consequence(host: Host) -> Consequence:
    """Find out what follows on a host; writes nothing, and what cannot be read leads to no reboot.

    Cancellation: at any moment.
    """
    try:
        with single_error():
            survey = await read_survey(host, needs_marker=False)
            booted = survey.booted.digest
            states, unread = await run_blocking(read_states, host)
            policy, warnings = await run_blocking(read_trial_policy, host)
            async with AsyncExitStack() as stack:
                boot = await open_boot_snapshot(survey, stack, loader=None, read_only=True)
                context = make_count_context(host, survey, boot, states)
                trials = await run_blocking(counter_of(boot.menu.record).read, context)
                trial = next((one for one in trials if one.digest == booted), None)
                found = decide_consequence(booted, states.get(booted), trial, boot.menu.default, policy)
    except NotBootcHostError:
        return Consequence()
    except (BootcFastError, OSError, ExceptionGroup) as error:
        said = tuple(describe_error(leaf) for leaf in flatten(error))
        return Consequence(warnings=tuple(f"finding out whether it is on trial: {one}" for one in said))
    return Consequence(found.restarts, found.reason, (*unread, *warnings) if found.reason else ())
