"""Replacing the set of boot entries, so that power may fail at any point.

Invariants, at every point of time and for every subset of the writes since the last flush:

1. The loader's first entry of ours is the old default or the new one. A new default outranks every entry of ours,
   old and new (``naming``), and is the first that becomes visible; nothing else of the new set is, until the disk
   has it. Taking a failed set back goes the other way round.
2. The entry that is found is whole, and so is every file that it names. What the new default needs, and the text of
   the new entries, is flushed before a name ends in ``.conf``; old files keep their blocks until the disk has their
   names as gone (``replace.remove_files``).
3. Foreign entries are neither written nor removed nor renamed.
4. No name is used twice (``naming``). Removed is only what is known to own its blocks (``replace.find_unsafe``); of
   what a cut left and does not, the name alone goes (``replace.detach_leftover``). What becomes live shares no block
   with any other name (``replace.find_shared``).
5. No directory in use grows: what needs a new name in one is known to fit before the first write (``beforehand``).
6. Whatever a cut leaves is a set that ``read_menu`` and ``plan_menu`` take as their start.

Until the first old entry is removed a failure puts the old set back; afterwards the new set is in force and what
fails is a warning. The sequence, with one barrier (``syncfs``, then ``fsync``) after each line:

====  =====================================================================================
1     the deployment's file system, the boot partition and the ESP as they are
2     each ``*.efi.staged`` gets its final name; what counts a trial's boots beside the entries is written
3     the whole set, foreign entries copied, in a directory that no loader reads (``beside``)
4     ``RENAME_EXCHANGE`` of that directory and the live one, a barrier on both and on their parent
5     the set is read back and sorted by every rule that the loader may have
6     ``user.cfg`` is replaced, where GRUB boots UKIs, and read back
7     overrides that named an entry of ours name the new default; a one-shot names what it tries
8     old entries: open, unlink, barrier, close; then their directory
9     the staged set
10    the set is read once more; what the removals damaged is written again from memory
====  =====================================================================================

Where the kernel cannot exchange names on the file system, or ``entries`` holds what cannot be copied, 3 and 4 are:
``X.conf.new`` written and flushed, then renamed to ``X.conf``, the default's first, a barrier each; refused where the
names could make the live directory grow.

Source:
    Spec boot.md, "Replacing the set", where the sequence was measured on Linux's vfat.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bootc_fast import _core
from bootc_fast.boot.area.directory import flushing_what_is_needed, hint_for
from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.entries.beside import CHECK_HINT
from bootc_fast.boot.entries.publication import Publication
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.machine import native
from bootc_fast.records import dataclass
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.area.directory import Area, BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.moves import VariableSetter
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.entries.trial_hooks import TrialHooks
    from bootc_fast.types import VerityDigest


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """What a publication did.

    Attributes:
        next_boot: The entry that the loader takes first of ours, read back: a file's name or a menuentry's title.
        written: How many entries were written.
        removed: How many entries were removed.
        warnings: What did not go as it should after the new set was in force.
    """

    next_boot: str
    written: int = 0
    removed: int = 0
    warnings: tuple[str, ...] = ()


def publish_volumes(
    boot: BootVolume,
    esp: BootVolume | None,
    menu: BootMenu,
    plan: MenuPlan,
    *,
    set_variable: VariableSetter | None = None,
    protected: Collection[VerityDigest] | None = None,
    settings: BootVolume | None = None,
    trial: TrialHooks | None = None,
) -> PublishOutcome:
    """Do what ``publish_menu`` does, on volumes, but for the deployment's own file system."""
    run = Publication(boot, esp, menu, plan, set_variable, protected, settings, trial)
    try:
        run.check_before()
        run.flush_before()
        run.rename_staged()
        run.begin_trial()
        run.write_entries()
        run.check()
        run.replace_user_cfg()
    except (OSError, BootEntryError) as error:
        problems = run.take_back()
        known = hint_for(error) if isinstance(error, OSError) else error.hint
        hint = "; ".join(filter(None, [*problems, known])) or None
        if isinstance(error, BootEntryError):
            raise BootEntryError(f"{run.doing}: {error}", hint=hint) from error
        raise FileSystemError(f"{run.doing}: {reason_of(error)}", hint=hint) from error
    run.move_overrides()
    run.arm_trial()
    removed = run.remove_old()
    run.remove_staged()
    try:
        run.confirm()
    except (OSError, BootEntryError) as error:
        what = reason_of(error) if isinstance(error, OSError) else error
        raise BootEntryError(f"{run.doing}, after the old ones were removed: {what}", hint=CHECK_HINT) from error
    return PublishOutcome(
        next_boot=plan.default.label,
        written=len(plan.new_files),
        removed=removed,
        warnings=tuple(run.warnings),
    )


def _sync_all(descriptors: Sequence[int]) -> None:
    with flushing_what_is_needed():
        for fd in descriptors:
            _core.sync_filesystem(fd)
            os.fsync(fd)


async def publish_menu(
    area: Area,
    menu: BootMenu,
    plan: MenuPlan,
    *,
    set_variable: VariableSetter | None = None,
    sync_fds: Sequence[int] = (),
    protected: Collection[VerityDigest] | None = None,
    trial: TrialHooks | None = None,
) -> PublishOutcome:
    """Replace the set of boot entries with the planned one; see this module's text for what holds meanwhile.

    The work is one call in a worker thread that is never abandoned: a cancellation that arrives meanwhile takes
    effect after it. The number of writes is bounded (n new entries and n + 8 flushes). The caller still puts a
    shield around this call and the decision before it, so that a cancellation cannot fall between the two.

    Args:
        area: The boot directories, open for writing.
        menu: What ``read_menu`` found, under the lock that is still held.
        plan: What ``plan_menu`` made of it.
        set_variable: Sets an EFI variable; None leaves it, with a warning where that matters.
        sync_fds: Directories on file systems that have to be on disk first: the deployment's state, the objects.
        protected: Deployments with a state directory: where space is short, boot files of all others that no entry
            names are removed first. None removes nothing.
        trial: What begins the new default's trial beside the entries (``boot.counting``); None where nothing does.

    Returns:
        What was done; its warnings are no failure: the new set is in force.

    Raises:
        FileSystemError: A write or flush failed, or there is no space; the old set is in force again.
        BootEntryError: The set did not read back as planned, or a directory would have to grow; the old set is in
            force again. Or the removal of the old set damaged the new one, and it could not be written again.

    Source:
        Spec boot.md, "Replacing the set"; commands.md, "composefs-finalize-staged", 4.
    """
    esp = None if area.esp_fd is None else RealVolume(area.esp_fd)
    boot = RealVolume(area.boot_fd)
    settings = None if area.loader_fd is None else RealVolume(area.loader_fd)

    def run() -> PublishOutcome:
        _sync_all(sync_fds)
        return publish_volumes(
            boot, esp, menu, plan, set_variable=set_variable, protected=protected, settings=settings, trial=trial
        )

    return await native.run_blocking(run)
