"""One finalize under way: how it was asked for, how it goes, and the snapshot of the host that it decides from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from bootc_fast.composefs.boot_files import check_boot_files
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.etc import plan_merge
from bootc_fast.composefs.kernel import find_lost_arguments
from bootc_fast.composefs.survey import check_staged_pieces, judge_kernel_verity, open_image
from bootc_fast.errors import BootcFastError
from bootc_fast.etc.policy import to_choice
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.native import Tally, run_blocking
from bootc_fast.records import dataclass, field, replace
from bootc_fast.text import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import OpenImage, Survey
    from bootc_fast.etc.plan import EtcPlan
    from bootc_fast.etc.policy import ConflictChoice
    from bootc_fast.flows.steps import Steps
    from bootc_fast.machine.host import Host
    from bootc_fast.report.finalize import Recall
    from bootc_fast.types import EtcReport, FinalizeOutcome, Loader, Result, Strategy, VerityDigest

TIMEOUT_S = 240.0
LOOK_TIMEOUT_S = 120.0
# Less than the whole look, so that the error names what hangs.
LOOK_PART_TIMEOUT_S = 100.0


@dataclass(frozen=True, slots=True)
class FinalizeOptions:
    """How to finalize.

    Attributes:
        on_conflict: Wins over the policy files where given, an explicit ``fail`` too; rules come before theirs.
        dry_run: Find out everything, write nothing.
        timeout_s: For the whole, in seconds.
        loader: Wins over what the host says.
        verify_signatures: With Secure Boot on, refuse a UKI or kernel that the loader would refuse.
        verify: Refuse boot files that are missing, or not those that were staged.
        force: Also take a deployment that failed its trial.
    """

    on_conflict: Strategy | ConflictChoice | None = None
    dry_run: bool = False
    timeout_s: float = TIMEOUT_S
    loader: Loader | None = None
    verify_signatures: bool = True
    verify: bool = True
    force: bool = False


@dataclass(slots=True)
class FinalizeRun:
    """One finalize under way: what it was asked, and what is known so far."""

    host: Host
    options: FinalizeOptions
    steps: Steps
    outcome: FinalizeOutcome
    recall: Recall | None = None
    is_strategy_recalled: bool = False
    warnings: list[str] = field(default_factory=list)

    def end(self, result: Result, *, etc: EtcReport | None = None, next_boot: str | None = None) -> None:
        """Note how it ended; what was noted before stays."""
        phases = {name: seconds for name, seconds in self.steps.seconds.items() if "." not in name}
        self.outcome = replace(
            self.outcome,
            result=result,
            etc=etc or self.outcome.etc,
            next_boot=next_boot or self.outcome.next_boot,
            warnings=tuple(self.warnings),
            phase_s=phases,
        )

    async def or_warn(self, what: str, function: Callable[..., object], *args: object) -> None:
        """Do what nothing depends on: blocks in a thread, and what fails is a warning that begins with `what`."""
        try:
            await run_blocking(function, *args)
        except (BootcFastError, OSError) as error:
            self.warnings.append(f"{what}: {describe_error(error)}")


@dataclass(slots=True)
class Snapshot:
    """A snapshot of the host, from which the rest is decided; filled by tasks that run side by side.

    Attributes:
        plan: None where /etc is transient: nothing is merged then.
        warnings: Of threads that cannot reach the run's own.
    """

    survey: Survey
    staged: VerityDigest
    stack: AsyncExitStack
    plan: EtcPlan | None = None
    boot: BootSnapshot | None = None
    warnings: list[str] = field(default_factory=list)


async def take_snapshot(run: FinalizeRun, snapshot: Snapshot) -> None:
    """Look at everything at once; several failures leave as a group."""
    await run_blocking(check_staged_pieces, run.host, snapshot.staged)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_look_etc, run, snapshot)
        # In this task, not in one of its own: what it opens outlives the group.
        with run.steps.run("look.boot", "Reading boot entries", timeout_s=LOOK_PART_TIMEOUT_S):
            snapshot.boot = await open_boot_snapshot(
                snapshot.survey, snapshot.stack, loader=run.options.loader, read_only=run.options.dry_run
            )
            run.warnings += snapshot.boot.warnings
            run.warnings += await find_lost_arguments(snapshot.survey, snapshot.boot, snapshot.staged)
            if run.options.verify:
                run.warnings += await check_boot_files(
                    snapshot.survey,
                    snapshot.staged,
                    snapshot.boot,
                    verify_signatures=run.options.verify_signatures,
                    through_disk=not run.options.dry_run,
                    tally=Tally(run.steps.on_event, "look.boot", unit="bytes"),
                )


async def _look_etc(run: FinalizeRun, snapshot: Snapshot) -> None:
    booted, staged = snapshot.survey.booted, snapshot.staged
    with run.steps.run("look.images", "Verifying the images", timeout_s=LOOK_PART_TIMEOUT_S):
        opened: dict[VerityDigest, OpenImage] = {}
        tally = Tally(run.steps.on_event, "look.images", unit="bytes")

        async def open_one(digest: VerityDigest) -> None:
            opened[digest] = await open_image(run.host, digest, snapshot.stack, tally=tally)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_one, booted.digest)
            tasks.start_soon(open_one, staged)
    run.warnings += judge_kernel_verity(snapshot.survey, snapshot.staged, opened.values())
    if await run_blocking(is_etc_transient, run.host):
        run.warnings.append("/etc is transient: nothing is merged, the new deployment starts with its image's /etc")
        return
    pristine, new = opened[booted.digest], opened[staged]
    with run.steps.run("look.etc", "Comparing /etc", timeout_s=LOOK_PART_TIMEOUT_S):
        snapshot.plan = await plan_merge(
            run.host,
            pristine,
            new,
            snapshot.stack,
            on_conflict=run.options.on_conflict,
            on_event=run.steps.on_event,
        )
    if run.is_strategy_recalled and snapshot.plan.report.conflicts:
        run.warnings.append(
            "conflicts in /etc: as an earlier run for this update, "
            + " ".join(f"--on-conflict={word}" for word in to_choice(run.options.on_conflict).words)
        )
