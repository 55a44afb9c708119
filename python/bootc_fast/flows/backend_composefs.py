"""A host of digests, as the flows see it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import anyio

from bootc_fast.boot.entries.ahead import check_ahead
from bootc_fast.boot.entries.choose import is_next_boot, name_entry
from bootc_fast.boot.entries.publish import publish_menu
from bootc_fast.boot.entries.variables import make_variable_setter
from bootc_fast.composefs.boot_files import check_boot_files, confirm_next_boot, list_protected
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.deployments import remove_staged_marker
from bootc_fast.composefs.etc import list_missing_changes
from bootc_fast.composefs.survey import judge_kernel_verity, open_image, read_survey
from bootc_fast.errors import FileSystemError, InvalidStateError, NoRollbackTargetError, VerityMismatchError
from bootc_fast.flows.backend import Change
from bootc_fast.flows.counting import decide_rollback
from bootc_fast.flows.rollback_plan import OTHER_HINT, plan_rollback
from bootc_fast.flows.trial_notes import note_rolled_back
from bootc_fast.machine.booted import is_etc_transient
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.mounts import open_writable
from bootc_fast.machine.native import Tally, run_blocking, tally_step
from bootc_fast.records import replace
from bootc_fast.report.boots import remember_withdrawn
from bootc_fast.report.finalize import note_withdrawn
from bootc_fast.restart.composefs import make_composefs_ways
from bootc_fast.text import describe_error, shorten_digest
from bootc_fast.trial.states import read_states

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.events import EventSink
    from bootc_fast.flows.counting import BootTrial
    from bootc_fast.flows.steps import Steps
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.ways import SoftRebootMode, Ways
    from bootc_fast.types import BootsInstead, Loader, VerityDigest

COMMIT_TIMEOUT_S = 10.0
_DAMAGED_HINT = f"{OTHER_HINT}; --no-verify boots it nevertheless"


class ComposefsBackend:
    """A host of digests: what boots next is the first of its boot entries, which we write."""

    is_ostree = False

    def __init__(self, host: Host, stack: AsyncExitStack, *, loader: Loader | None, read_only: bool) -> None:
        self.host: Host = host
        self.stack = stack
        self.warnings: list[str] = []
        self._loader = loader
        self._read_only = read_only
        self._survey: Survey | None = None
        self._boot: BootSnapshot | None = None
        self._plan: MenuPlan | None = None
        self._trial: BootTrial | None = None
        self._change: Change | None = None
        self._stays = False

    @property
    def _snapshot(self) -> tuple[Survey, BootSnapshot]:
        assert self._survey is not None  # noqa: S101 every flow looks first
        assert self._boot is not None  # noqa: S101 every flow looks first
        return self._survey, self._boot

    @property
    def _chosen(self) -> Change:
        assert self._change is not None  # noqa: S101 every flow chooses before it acts
        return self._change

    async def lock(self) -> None:
        """Hold the lock and a writable /sysroot as long as the stack."""
        # Who is no host of ours gets no lock file either.
        await read_survey(self.host, needs_marker=False)
        await self.stack.enter_async_context(hold_lock(self.host))
        self.host = await self.stack.enter_async_context(open_writable(self.host))

    async def _look(self, *, read_only: bool, needs_marker: bool = True) -> tuple[Survey, BootSnapshot]:
        self._survey = await read_survey(self.host, needs_marker=needs_marker)
        self._boot = await open_boot_snapshot(self._survey, self.stack, loader=self._loader, read_only=read_only)
        return self._survey, self._boot

    async def choose_target(
        self, to: str | None, *, allow_non_container: bool, force: bool, verify: bool, keep_staged: bool
    ) -> Change:
        """Choose by the boot entries."""
        del allow_non_container
        survey, boot = await self._look(read_only=self._read_only, needs_marker=False)
        states, unread = await run_blocking(read_states, self.host)
        plan = await run_blocking(plan_rollback, survey, boot.menu, to=to, force=force, verify=verify, states=states)
        self.warnings += [*boot.warnings, *unread, *plan.warnings]
        # Its marker without its entries would be an update that no finalize can apply.
        self._plan = plan = replace(plan, removes_staged=False) if keep_staged and survey.marker is not None else plan
        target, default, marker = plan.order[0], boot.menu.default, survey.marker
        self._trial = await run_blocking(decide_rollback, survey, boot, plan, states, verify=verify)
        origin, current = survey.find_origin(target), survey.find_origin(survey.booted.digest)
        changes_nothing = to is not None and is_next_boot(boot.menu, target)
        published = plan if changes_nothing else self._trial.decision.plan
        self.warnings += () if changes_nothing else self._trial.notes
        other = marker.digest if marker and marker.digest != target else None
        stays = self._stays = changes_nothing or keep_staged
        if survey.marker_problem is not None:
            fate = "stays" if stays else "is dropped"
            self.warnings.append(f"{survey.marker_problem}: what is staged {fate}")
        self._change = Change(
            booted=survey.booted.digest,
            target=target,
            is_changed=(default.digest if default else None) != target,
            dropped_staged=None if stays else other,
            kept_staged=other if stays else None,
            changes_nothing=changes_nothing,
            image_reference=origin.image_reference if origin else None,
            manifest_digest=origin.manifest_digest if origin else None,
            booted_manifest_digest=current.manifest_digest if current else None,
            entry_name=name_entry(published, target),
            boots_instead=published.boots_instead,
        )
        return self._change

    async def choose_next(self, due: VerityDigest | None) -> Change:
        """Choose what the loader takes first."""
        survey, boot = await self._look(read_only=True)
        default = boot.menu.default
        target = due
        if target is None:
            if default is None or not default.is_own or default.digest is None or default.digest not in survey.known:
                raise NoRollbackTargetError("choosing what to restart into: no deployment of this host boots next")
            target = default.digest
        self._change = Change(survey.booted.digest, target)
        return self._change

    async def find_due(self, mode: SoftRebootMode) -> VerityDigest | None:
        """Find a staged update that is not the next boot yet."""
        survey = await read_survey(self.host)
        marker = survey.marker
        if marker is None or marker.finalization_locked:
            return None
        boot = await open_boot_snapshot(survey, self.stack, loader=self._loader, read_only=True)
        if boot.menu.default is not None and boot.menu.default.digest == marker.digest:
            return None
        if mode is not mode.AUTO:
            await make_composefs_ways(survey, boot, marker.digest, self.stack, mode=mode).prepare(dry_run=True)
        return marker.digest

    async def check_target(self, *, verify: bool, on_event: EventSink) -> None:
        """Refuse a damaged image, kernel, initrd or UKI, or a missing origin: what a finalize would not take either."""
        if not verify:
            return
        survey, boot = self._snapshot
        with tally_step(on_event, "check.image", "Verifying the image", unit="bytes") as tally:
            await self._check_image(survey, self._chosen.target, tally)
        if self._trial is not None:
            protected, plan = list_protected(survey, boot.menu), self._trial.decision.plan
            await run_blocking(check_ahead, boot.area, boot.menu, plan, protected=protected)
        self.warnings += await check_boot_files(
            survey,
            self._chosen.target,
            boot,
            entry=self._plan.default if self._plan else None,
            role="the rollback target",
            hint=_DAMAGED_HINT,
            through_disk=not self._read_only,
            tally=Tally(on_event, "check", unit="bytes"),
        )

    async def _check_image(self, survey: Survey, target: VerityDigest, tally: Tally) -> None:
        try:
            image = await open_image(self.host, target, self.stack, tally=tally)
        except VerityMismatchError as error:
            error.hint = _DAMAGED_HINT
            raise
        self.warnings += judge_kernel_verity(survey, target, [image])
        deployment = survey.find_deployment(target)
        if deployment is None or deployment.origin is None:
            doing = f"rolling back to {shorten_digest(target)}"
            if deployment is not None and deployment.origin_unread is not None:
                raise FileSystemError(f"{doing}: {deployment.origin_unread}", hint=_DAMAGED_HINT)
            reasons = [one for one in (deployment.problems if deployment else ()) if ".origin" in one]
            raise InvalidStateError(f"{doing}: {'; '.join(reasons) or 'its origin is missing'}", hint=_DAMAGED_HINT)

    async def list_missing_changes(self, on_event: EventSink) -> tuple[EtcDiffEntry, ...] | None:
        """Compare the running /etc with the target's state."""
        if await run_blocking(is_etc_transient, self.host):
            return None
        chosen = self._chosen
        return await list_missing_changes(self.host, chosen.booted, chosen.target, self.stack, on_event=on_event)

    def make_ways(self, mode: SoftRebootMode | None) -> Ways[None]:
        """Make the ways into the target."""
        survey, boot = self._snapshot
        return make_composefs_ways(survey, boot, self._chosen.target, self.stack, mode=mode)

    async def write_order(self, ways: Ways[None], steps: Steps) -> Change:
        """Publish the boot entries; waits for the end, whoever cancels."""
        del ways
        survey, boot = self._snapshot
        trial = self._trial
        assert trial is not None  # noqa: S101 a rollback has planned
        if self._chosen.changes_nothing:
            return self._chosen
        with (
            anyio.CancelScope(shield=True),
            steps.run("commit", "Replacing the boot entries", timeout_s=COMMIT_TIMEOUT_S),
        ):
            published = await publish_menu(
                boot.area,
                boot.menu,
                trial.decision.plan,
                set_variable=make_variable_setter(self.host),
                protected=list_protected(survey, boot.menu),
                trial=trial,
            )
        self.warnings += published.warnings
        return self._chosen

    async def enter(self, ways: Ways[None]) -> None:
        """Put the way in force; the lock is held."""
        with anyio.CancelScope(shield=True):
            await run_blocking(ways.commit, None)

    async def confirm(self, ways: Ways[None]) -> BootsInstead | None:
        """Read the entries back, then put the way in force."""
        survey, boot = self._snapshot
        instead = await run_blocking(confirm_next_boot, survey, boot, self._chosen.target)
        await run_blocking(ways.commit, None)
        return instead

    async def drop_staged(self) -> None:
        """Remove the marker; one that cannot be read may stay, since no finalize can take it for an update.

        Raises:
            FileSystemError: It stays; everything else is done.
        """
        is_garbage = self._snapshot[0].marker_problem is not None and not self._stays
        if self._chosen.dropped_staged is None and not is_garbage:
            return
        try:
            await run_blocking(remove_staged_marker, self.host)
        except FileSystemError as error:
            if is_garbage:
                self.warnings.append(describe_error(error))
                return
            error.hint = f"the new boot order is on disk; remove {self.host.staged_marker} before the next shutdown"
            raise

    def list_notes(self) -> list[tuple[str, Callable[[], object]]]:
        """Note what the next boot would else miss, and touch what programs watch."""
        survey, change, trial = self._snapshot[0], self._chosen, self._trial
        dropped = "noting what is dropped", partial(remember_withdrawn, self.host, change.booted, survey.deployments)
        return [
            ("noting what is withdrawn", partial(note_withdrawn, self.host, change.target)),
            *([] if change.kept_staged else [dropped]),
            *([("noting the trial", trial.note)] if trial is not None and trial.decision.method else []),
            ("noting the trial", partial(note_rolled_back, self.host, survey, change.target)),
            ("touching the state directory", self._touch_state),
        ]

    def _touch_state(self) -> None:
        with self.host.open_directory(self.host.state_deploy) as fd:
            os.utime(fd)
