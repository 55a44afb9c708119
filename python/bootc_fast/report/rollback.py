"""What a rollback did, on composefs and ostree hosts alike, and the marker by which others hear of it.

Source:
    Spec commands.md, "rollback"; bootc ``deploy.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.errors import InvalidStateError
from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.machine.host import Host
    from bootc_fast.restart.ways import RestartWay
    from bootc_fast.types import BootsInstead, VerityDigest

PREVIOUS = "previous"
BOOTED = "booted"

REBOOT_TEXT = "bootc: Reboot required for image: "


@dataclass(frozen=True, slots=True)
class RollbackOutcome:
    """What a rollback did, or with ``dry_run`` would do.

    Attributes:
        booted: The deployment that runs.
        next_boot: The deployment that boots next.
        is_revert: The booted deployment boots next: a queued rollback was undone.
        is_changed: The boot order was, or would be, another one than before.
        dropped_staged: The staged deployment that was dropped; None where none was.
        kept_staged: The staged deployment that stays, since nothing was changed, or that was asked for: it boots next
            once it is finalized.
        image_reference: Of the next boot's origin.
        manifest_digest: Of the next boot's origin.
        etc_changes_missing: How many local changes of the running /etc the next boot's /etc does not have; None where
            that cannot be told, or where the booted deployment boots next.
        etc_missing: These changes.
        entry_name: File name of the entry that the loader takes first.
        dry_run: Nothing was written.
        restart: The way into the next boot that was asked for, e.g. ``"soft-reboot"``; None where none was, or where
            the booted deployment boots next.
        restart_notes: Why it is no faster way, or none.
        warnings: Everything odd.
        boots_instead: What boots all the same in place of `next_boot`; None where that boots.
        is_ostree: The deployments are ostree's: ``<commit>.<serial>`` instead of digests.
    """

    booted: VerityDigest
    next_boot: VerityDigest
    is_revert: bool
    is_changed: bool
    dropped_staged: VerityDigest | None = None
    kept_staged: VerityDigest | None = None
    image_reference: str | None = None
    manifest_digest: str | None = None
    etc_changes_missing: int | None = None
    etc_missing: tuple[EtcDiffEntry, ...] = ()
    entry_name: str | None = None
    dry_run: bool = False
    restart: RestartWay | None = None
    restart_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    boots_instead: BootsInstead | None = None
    is_ostree: bool = False


def note_reboot(host: Host, outcome: RollbackOutcome) -> None:
    """Leave, or take away, the marker by which others know that a reboot is wanted; blocks."""
    if outcome.is_revert:
        # What runs boots next: whoever waits for this marker has nothing to reboot for any more.
        _remove_reboot_marker(host)
    else:
        text = REBOOT_TEXT + (outcome.manifest_digest or outcome.next_boot)
        host.write_file(host.reboot_marker, text.encode())


def _remove_reboot_marker(host: Host) -> None:
    if _read_reboot_marker(host) is not None:
        host.remove_file(host.reboot_marker)


def drop_reboot_marker(host: Host, *names: str | None) -> bool:
    """Take the marker away where it asks for a deployment that goes by one of these names; blocks.

    Args:
        host: Whose.
        names: Its digest, its image's manifest digest; None is no name.

    Returns:
        Whether it asked for that.

    Raises:
        FileSystemError: It cannot be removed.
    """
    wanted = _read_reboot_marker(host)
    if wanted is None or wanted not in names:
        return False
    return host.remove_file(host.reboot_marker)


def _read_reboot_marker(host: Host) -> str | None:
    """Read what a reboot is wanted for; None where the marker is absent, unreadable, or somebody else's."""
    try:
        text = host.read_bytes(host.reboot_marker).decode("utf-8", "replace")
    except (OSError, InvalidStateError):
        return None
    return text.removeprefix(REBOOT_TEXT) if text.startswith(REBOOT_TEXT) else None
