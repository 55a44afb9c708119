"""What the flows need of a host, whichever of the two back ends made it: composefs or ostree.

A back end looks at the deployments, says what may boot next, writes their order, and makes the ways into one. The flows
ask no further which it is.

Source:
    Spec commands.md, "rollback"; bootc ``bootc_composefs/rollback.rs`` and ``deploy.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bootc_fast.errors import NotBootcHostError
from bootc_fast.machine.booted import is_ostree_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.events import EventSink
    from bootc_fast.flows.steps import Steps
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.ways import SoftRebootMode, Ways
    from bootc_fast.types import BootsInstead, Loader, VerityDigest

LOOK_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of what boots next, in terms that both back ends have.

    Attributes:
        booted: The deployment that runs.
        target: The one that is to boot next.
        is_changed: Another one boots next now.
        dropped_staged: The staged deployment that is dropped.
        kept_staged: The staged deployment that stays, since nothing is changed, or that was asked for.
        changes_nothing: The target was named, and boots next already: nothing is written, nothing dropped.
        image_reference: Of the target's origin.
        manifest_digest: Of the target's origin.
        booted_manifest_digest: Of the deployment that runs.
        entry_name: What the target's boot entry is called.
        boots_instead: What boots all the same in the target's place; None where that boots.
        commit: On an ostree host the target's.
    """

    booted: VerityDigest
    target: VerityDigest
    is_changed: bool = False
    dropped_staged: VerityDigest | None = None
    kept_staged: VerityDigest | None = None
    changes_nothing: bool = False
    image_reference: str | None = None
    manifest_digest: str | None = None
    booted_manifest_digest: str | None = None
    entry_name: str | None = None
    boots_instead: BootsInstead | None = None
    commit: str | None = None

    @property
    def is_revert(self) -> bool:
        """What runs boots next."""
        return self.target == self.booted


class Backend(Protocol):
    """A host's deployments and their order; made for one flow.

    Attributes:
        host: Which.
        is_ostree: Deployments are named ``<commit>.<serial>`` instead of by digests.
        stack: Holds what is open and locked.
        warnings: Everything that did not stop it.
    """

    host: Host
    is_ostree: bool
    stack: AsyncExitStack
    warnings: list[str]

    async def lock(self) -> None:
        """Take the lock, where it is held from the look to the commit."""
        ...

    async def choose_target(
        self, to: str | None, *, allow_non_container: bool, force: bool, verify: bool, keep_staged: bool
    ) -> Change:
        """Look, and choose where a rollback leads; with `keep_staged` what is staged stays so."""
        ...

    async def choose_next(self, due: VerityDigest | None) -> Change:
        """Look, and choose what boots next; `due` in its place where a finalize would come first."""
        ...

    async def find_due(self, mode: SoftRebootMode) -> VerityDigest | None:
        """Find the update that has to be finalized before; refuse where the way cannot lead to it."""
        ...

    async def check_target(self, *, verify: bool, on_event: EventSink) -> None:
        """Refuse a target that would not boot; with `verify` one that is not what was staged, too."""
        ...

    async def list_missing_changes(self, on_event: EventSink) -> tuple[EtcDiffEntry, ...] | None:
        """List the local changes that the target's /etc does not have; None where they are gone anyway."""
        ...

    def make_ways(self, mode: SoftRebootMode | None) -> Ways[Any]:
        """Make the ways into the target."""
        ...

    async def write_order(self, ways: Ways[Any], steps: Steps) -> Change:
        """Make the target the next boot; a staged update is not dropped before the new order is on disk."""
        ...

    async def enter(self, ways: Ways[Any]) -> None:
        """Put the way in force with the order as it is on disk."""
        ...

    async def confirm(self, ways: Ways[Any]) -> BootsInstead | None:
        """Look what boots now, and put the way in force, where the order did not do it.

        Returns:
            What boots in the target's place; None where that boots.
        """
        ...

    async def drop_staged(self) -> None:
        """Drop the staged update, so that no finalize at shutdown changes the order again."""
        ...

    def list_notes(self) -> list[tuple[str, Callable[[], object]]]:
        """List what is to be noted once the new order is in force: what for, and a call that blocks."""
        ...


async def refuse_ostree(host: Host, what: str, *, hint: str) -> None:
    """Refuse what only composefs hosts have.

    Raises:
        NotBootcHostError: It is an ostree host; the hint is what there is in its place.
    """
    if await run_blocking(is_ostree_host, host):
        raise NotBootcHostError(f"{what}: this is an ostree host", hint=hint)


async def open_backend(host: Host, stack: AsyncExitStack, *, loader: Loader | None, read_only: bool) -> Backend:
    """Make the back end of a host.

    Args:
        host: Which.
        stack: Will hold what is opened and locked.
        loader: Wins over what the host says.
        read_only: Nothing will be written.
    """
    # Here, since a host needs one of them only.
    if await run_blocking(is_ostree_host, host):
        from bootc_fast.flows.backend_ostree import OstreeBackend

        return OstreeBackend(host, stack)
    from bootc_fast.flows.backend_composefs import ComposefsBackend

    return ComposefsBackend(host, stack, loader=loader, read_only=read_only)
