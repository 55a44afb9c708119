"""A host of commits, as the flows see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bootc_fast.errors import FileSystemError, InvalidStateError, UsageError
from bootc_fast.flows.backend import Change
from bootc_fast.flows.rollback_plan import choose_ostree_target
from bootc_fast.machine.lock import hold_lock
from bootc_fast.machine.native import run_blocking
from bootc_fast.ostree.etc import list_missing_ostree_changes
from bootc_fast.ostree.sysroot import (
    check_bootable,
    clear_soft_reboot,
    enter_ostree,
    read_ostree,
    reorder_ostree,
)
from bootc_fast.restart.ostree import OstreeOrder, make_ostree_ways
from bootc_fast.text import describe_error
from bootc_fast.types import VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.events import EventSink
    from bootc_fast.flows.steps import Steps
    from bootc_fast.machine.host import Host
    from bootc_fast.ostree.sysroot import OstreeDeployment, OstreeSurvey
    from bootc_fast.restart.ways import SoftRebootMode, Ways
    from bootc_fast.types import BootsInstead

# libostree waits for its lock, writes, and removes what no deployment needs any more.
COMMIT_TIMEOUT_S = 100.0


class OstreeBackend:
    """A host of commits: what boots next is the first of libostree's list, which libostree writes."""

    is_ostree = True

    def __init__(self, host: Host, stack: AsyncExitStack) -> None:
        self.host = host
        self.stack = stack
        self.warnings: list[str] = []
        self._survey: OstreeSurvey | None = None
        self._target: OstreeDeployment | None = None
        self._choose: Callable[[OstreeSurvey], OstreeDeployment] | None = None

    async def lock(self) -> None:
        """Nothing: libostree's own lock guards what is read and written, and ours is taken for that only."""

    async def choose_target(
        self, to: str | None, *, allow_non_container: bool, force: bool, verify: bool, keep_staged: bool
    ) -> Change:
        """Choose by libostree's list; no loader gives up on its entries."""
        del force, verify
        if keep_staged:
            raise UsageError("rolling back: --keep-staged is for composefs hosts: libostree drops what is staged")

        def choose(survey: OstreeSurvey) -> OstreeDeployment:
            return choose_ostree_target(survey, to, allow_non_container=allow_non_container)

        return await self._look(choose)

    async def choose_next(self, due: VerityDigest | None) -> Change:
        """Choose what is staged and not locked, which libostree finalizes on the way; else the first."""
        del due

        def choose(survey: OstreeSurvey) -> OstreeDeployment:
            if survey.staged is not None and not survey.staged.is_finalization_locked:
                return survey.staged
            first = survey.order[0]
            if first != survey.booted:
                check_bootable(self.host, first)
            return first

        return await self._look(choose)

    async def _look(self, choose: Callable[[OstreeSurvey], OstreeDeployment]) -> Change:
        self._choose = choose
        self._survey = await read_ostree(self.host)
        self._target = await run_blocking(choose, self._survey)
        self.warnings += self._target.problems
        return self._describe()

    def _describe(self) -> Change:
        survey, target = self._looked
        return Change(
            booted=VerityDigest(survey.booted.name),
            target=VerityDigest(target.name),
            is_changed=survey.order[0] != target,
            dropped_staged=VerityDigest(survey.staged.name) if survey.staged else None,
            image_reference=target.reference,
            manifest_digest=target.image.manifest_digest,
            booted_manifest_digest=survey.booted.image.manifest_digest,
            entry_name=target.title,
            commit=target.checksum,
        )

    @property
    def _looked(self) -> tuple[OstreeSurvey, OstreeDeployment]:
        assert self._survey is not None  # noqa: S101 every flow looks first
        assert self._target is not None  # noqa: S101 every flow looks first
        return self._survey, self._target

    async def find_due(self, mode: SoftRebootMode) -> VerityDigest | None:
        """Nothing: libostree finalizes on the way."""

    async def check_target(self, *, verify: bool, on_event: EventSink) -> None:
        """Refuse a target whose kernel, initrd or tree is missing."""
        del verify, on_event
        survey, target = self._looked
        if target != survey.booted:
            await run_blocking(check_bootable, self.host, target)

    async def list_missing_changes(self, on_event: EventSink) -> tuple[EtcDiffEntry, ...] | None:
        """Compare the booted deployment's etc with the target's."""
        survey, target = self._looked
        return await list_missing_ostree_changes(self.host, survey.booted, target, on_event=on_event)

    def make_ways(self, mode: SoftRebootMode | None) -> Ways[OstreeOrder]:
        """Make the ways into the target."""
        return make_ostree_ways(self.host, self._looked[1], mode=mode)

    def _choose_same(self, what: str, hint: str | None = None) -> Callable[[OstreeSurvey], OstreeDeployment]:
        """Choose again, under the lock, and refuse what is not what was looked at."""
        wanted = self._looked[1].key

        def choose(survey: OstreeSurvey) -> OstreeDeployment:
            assert self._choose is not None  # noqa: S101 the look has set it
            found = self._choose(survey)
            if found.key != wanted:
                raise InvalidStateError(what, hint=hint)
            if found != survey.booted and not found.is_staged:
                check_bootable(self.host, found)
            return found

        return choose

    def _enter(self, ways: Ways[OstreeOrder], sysroot: Any, target: OstreeDeployment) -> None:  # noqa: ANN401 - untyped library
        try:
            # A plain `systemctl reboot` would enter it in place of what boots next.
            clear_soft_reboot(sysroot)
        except FileSystemError as error:
            self.warnings.append(describe_error(error))
        ways.commit(OstreeOrder(sysroot, target))

    async def write_order(self, ways: Ways[OstreeOrder], steps: Steps) -> Change:
        """Write libostree's list, and put the way in force with it; a time-out ends in libostree's next check."""
        choose = self._choose_same(
            "writing the order of the deployments: another process has changed it meanwhile",
            "`bootc-fast status` shows it; run this again",
        )
        await self.stack.enter_async_context(hold_lock(self.host))
        with steps.run("commit", "Writing the order of the deployments", timeout_s=COMMIT_TIMEOUT_S):
            self._survey, self._target = await reorder_ostree(
                self.host, choose, enter=lambda sysroot, target: self._enter(ways, sysroot, target)
            )
        return self._describe()

    async def enter(self, ways: Ways[OstreeOrder]) -> None:
        """Put the way in force under both locks."""
        choose = self._choose_same("preparing the restart: another deployment is to boot next meanwhile")
        await self.stack.enter_async_context(hold_lock(self.host))
        await enter_ostree(self.host, choose, lambda sysroot, target: self._enter(ways, sysroot, target))

    async def confirm(self, ways: Ways[OstreeOrder]) -> BootsInstead | None:
        """Nothing: libostree has written what it says."""

    async def drop_staged(self) -> None:
        """Nothing: libostree drops it with the order."""

    def list_notes(self) -> list[tuple[str, Callable[[], object]]]:
        """Nothing: libostree has noted its own."""
        return []
