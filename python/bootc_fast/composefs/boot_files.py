"""Boot entries as the flows look at them, and whether what a deployment boots from is there and whole."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.firmware import read_loader_variables
from bootc_fast.boot.entries.choose import choose_entry, find_boots_instead, find_rollback_target
from bootc_fast.boot.entries.keep import read_keep_policy
from bootc_fast.boot.entries.menu import read_menu
from bootc_fast.composefs.boot_snapshot import hash_files, read_boot_uki, read_through_disk
from bootc_fast.errors import BootcFastError, BootEntryError, FileSystemError, VerityMismatchError
from bootc_fast.machine.native import run_blocking, run_native
from bootc_fast.text import describe_error, escape_bytes, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.native import Tally
    from bootc_fast.types import BootsInstead, VerityDigest

_STAGE_HINT = "stage the update again with `bootc upgrade`"
_MAX_TRIED = 4


def confirm_next_boot(survey: Survey, look: BootSnapshot, target: VerityDigest) -> BootsInstead | None:
    """Look again, after writing, at what the loader boots; blocks.

    Returns:
        What it boots that is not of this host; None where it boots ours.

    Raises:
        BootEntryError: An override picks another deployment of ours.
        FileSystemError: The entries cannot be read; the new ones are in force all the same, and it says so.
    """
    from bootc_fast.boot.entries.plan import check_next_boot

    try:
        variables = read_loader_variables(survey.host)
        menu = read_menu(look.area, known=survey.known, variables=variables)
        check_next_boot(menu, target)
    except BootEntryError:
        raise
    except (BootcFastError, OSError) as error:
        raise FileSystemError(
            f"looking again at what boots next, with the new boot entries in force: {describe_error(error)}",
            hint="the disk had them when they were written; once it can be read, `bootc-fast status` says what boots",
        ) from error
    wanted = choose_entry(menu, target, prefers_staged=False)
    return find_boots_instead(menu, menu.live.choice, wanted)


def choose_finalized_order(
    survey: Survey, menu: BootMenu, staged: VerityDigest
) -> tuple[tuple[VerityDigest, ...], tuple[str, ...]]:
    """Choose which deployments have boot entries after a finalize, by the host's policy files; blocks.

    Returns:
        The order that is wanted, and what is to be said of it.
    """
    from bootc_fast.boot.entries.deployment_order import describe_dropped, find_dropped, order_after_finalize

    policy, warnings = read_keep_policy(survey.host)
    order = order_after_finalize(menu, staged=staged, booted=survey.booted.digest, kept=survey.kept, policy=policy)
    return order, (*warnings, *describe_dropped(find_dropped(menu, order), policy))


def list_protected(survey: Survey, menu: BootMenu) -> frozenset[VerityDigest]:
    """Deployments whose boot files stay even where the boot partition is full: booted, staged, and the rollback one.

    Source:
        Spec boot.md, "A full boot partition".
    """
    staged = survey.marker.digest if survey.marker else None
    target = find_rollback_target(menu, booted=survey.booted.digest, staged=staged)
    return frozenset(filter(None, (survey.booted.digest, staged, target)))


async def check_boot_files(
    survey: Survey,
    digest: VerityDigest,
    look: BootSnapshot,
    *,
    verify_signatures: bool = True,
    entry: MenuEntry | None = None,
    role: str = "the staged deployment",
    hint: str = _STAGE_HINT,
    through_disk: bool = False,
    tally: Tally | None = None,
) -> list[str]:
    """Check that a deployment has a boot entry, and that what the entry names is there and whole.

    Cancellation: within 50 ms; nothing is written, but what others wrote is flushed with `through_disk`.

    Args:
        survey: The host's deployments.
        digest: The one that is to boot next.
        look: The boot directories.
        verify_signatures: With Secure Boot on, refuse a UKI or kernel that the loader would refuse.
        entry: Its entry; None takes the staged one, as a finalize does.
        role: What the deployment is here, for the error.
        hint: What to do about a damaged one.
        through_disk: Read what the disk has, as the firmware will, and not what the kernel has in memory: who staged
            it need not have waited for the disk. Every file is read whole then, also where nothing is known to
            compare it with.
        tally: Told how many bytes are read, of those that are read whole.

    Returns:
        Warnings.

    Raises:
        BootEntryError: There is no entry, or a file that it names is missing.
        VerityMismatchError: Kernel and initrd are not those of the origin; or the UKI boots another image.
        SignatureError: Secure Boot would refuse the UKI.
        FileSystemError: A file cannot be read, or the ESP that it is on cannot be opened.

    Source:
        Spec boot.md, "Replacing the set" 1 and "UKIs"; host.md, "Origin file".
    """
    whose = f"{role} {shorten_digest(digest)}"
    what = f"looking at the boot entry of {whose}"
    entry = look.find_entry(digest) if entry is None else entry
    if entry is None:
        look.menu.odd.refuse_unread(what)
        raise BootEntryError(f"{what}: there is none in {look.area.description}", hint=hint)
    if entry.missing:
        look.menu.odd.refuse_unopened(entry, what)
        names = ", ".join(map(escape_bytes, entry.missing))
        recover = "" if entry.uki is not None else "; `bootc-fast doctor --repair` takes a kernel out of its image"
        raise BootEntryError(f"{what}: it names {names}, which is missing or empty", hint=f"{hint}{recover}")
    digests: dict[tuple[bytes, ...], str] = {}
    if through_disk:
        digests = await run_native(
            read_through_disk, look, entry.paths, hashes=entry.uki is None, progress=tally.add() if tally else None
        )
    if entry.uki is not None:
        damaged = partial(_damaged_error, entry.uki, whose=whose, hint=hint)
        return await _check_uki(survey, digest, look, entry.uki, verify_signatures=verify_signatures, damaged=damaged)
    origin = survey.find_origin(digest)
    if origin is not None and origin.boot_digest is not None and entry.linux is not None:
        found = await hash_kernel(look, entry, expected=origin.boot_digest, known=digests, tally=tally)
        if found is not None and found != origin.boot_digest:
            raise _damaged_error(entry.linux, origin.boot_digest, found, whose=whose, hint=hint)
    if verify_signatures and look.variables.secure_boot and entry.linux is not None:
        from bootc_fast.composefs.signatures import verify_kernel

        return await verify_kernel(survey, look, entry)
    return []


async def hash_kernel(
    look: BootSnapshot,
    entry: MenuEntry,
    *,
    expected: str,
    known: Mapping[tuple[bytes, ...], str] | None = None,
    tally: Tally | None = None,
) -> str | None:
    """Hash the kernel and initrd of an entry, as they were staged.

    An entry may name more initrds than the one that bootc put beside the kernel: microcode, a TuneD overlay. Those are
    somebody else's, and in no digest.

    Cancellation: within 50 ms; nothing is written.

    Args:
        look: The boot directories.
        entry: With a kernel.
        expected: The digest in the origin.
        known: What was hashed a moment ago: SHA-256 in hex by the paths.
        tally: Told how many bytes are read.

    Returns:
        `expected` where it fits, else the SHA-256 in hex over all; None where GRUB alone knows which kernel it is.

    Raises:
        BootEntryError: A file is not there.
        FileSystemError: One cannot be read.
    """
    if entry.linux is None or entry.linux in entry.unknown:
        return None
    home = entry.linux.rpartition(b"/")[0]
    beside = tuple(path for path in entry.initrd if path.rpartition(b"/")[0] == home)
    sets = dict.fromkeys((entry.initrd, beside, *((path,) for path in (*beside, *entry.initrd)[:_MAX_TRIED])))
    found: str | None = None
    for initrds in sets:
        paths = (entry.linux, *initrds)
        digest = (known or {}).get(paths)
        if digest is None:
            digest = await run_native(hash_files, look, paths, progress=tally.add() if tally else None)
        if digest == expected:
            return digest
        found = found or digest
    return found


def _damaged_error(path: bytes, expected: str, found: str, *, whose: str, hint: str) -> VerityMismatchError:
    return VerityMismatchError(
        f"verifying {escape_bytes(path)} of {whose}: kernel and initrd are not those that were staged",
        path=escape_bytes(path),
        expected=expected,
        found=found,
        hint=hint,
    )


async def _check_uki(
    survey: Survey,
    digest: VerityDigest,
    look: BootSnapshot,
    path: bytes,
    *,
    verify_signatures: bool,
    damaged: Callable[[str, str], VerityMismatchError],
) -> list[str]:
    # Here, since parsing signatures takes as long to import as everything else a status needs.
    from bootc_fast.boot.efi.uki import check_uki

    with closing(await run_native(read_boot_uki, look, path)) as uki:
        await run_blocking(check_uki, uki, digest=digest)
        origin = survey.find_origin(digest)
        expected = None if origin is None else origin.boot_digest
        if expected is not None and uki.boot_digest is not None and uki.boot_digest != expected:
            raise damaged(expected, uki.boot_digest)
        if not (verify_signatures and look.variables.secure_boot):
            return []
        from bootc_fast.composefs.signatures import verify_program

        return await verify_program(survey, look, uki.pe, "the UKI")
