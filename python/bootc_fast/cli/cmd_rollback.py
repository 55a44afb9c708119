"""``bootc-fast rollback``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error
from bootc_fast.cli.options import add_bootloader, add_progress
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_errors, print_json, print_lines, render_boots_instead
from bootc_fast.cli.runtime import run_async
from bootc_fast.errors import BootEntryError
from bootc_fast.flows.rollback import RollbackOptions, rollback
from bootc_fast.text import count, shorten_digest

if TYPE_CHECKING:
    import argparse

    from bootc_fast.report.rollback import RollbackOutcome
    from bootc_fast.types import BootsInstead

DESCRIPTION = """\
Makes the previous deployment boot next; called again, undoes that. A staged update is dropped once the new boot
order is on disk. Nothing restarts without --apply.
"""
EPILOG = """\
examples:
  bootc-fast rollback --dry-run
  bootc-fast rollback
  bootc-fast rollback --to booted
  bootc-fast rollback --apply --soft-reboot=auto
"""


# By whether it boots, and whether it is a dry run.
_PREFIXES = {
    (True, False): "Next boot",
    (True, True): "Would be next boot",
    (False, False): "First of this host",
    (False, True): "Would be first of this host",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from bootc_fast.restart.ways import SoftRebootMode

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "--to",
        metavar="DEPLOYMENT",
        help="the deployment to boot next: `previous`, `booted`, or one by its digest or 8 characters of it, or by the "
        "version or image tag that one deployment has; naming the next boot changes nothing",
    )
    parser.add_argument("--apply", action="store_true", help="restart, unless the running deployment boots next")
    parser.add_argument(
        "--soft-reboot",
        type=SoftRebootMode,
        choices=list(SoftRebootMode),
        help="prepare a restart without the firmware, found out before anything is changed: a soft reboot (required), "
        "a kexec, or the fastest that is possible (auto)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    add_bootloader(parser)
    add_progress(parser)
    parser.add_argument(
        "--allow-non-container",
        action="store_true",
        help="on an ostree host: also roll back to a deployment that no container image was the source of",
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not check that the target boots from what was staged for it, nor its signature",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also take a target that failed its trial, or on which the boot loader gave up",
    )
    parser.add_argument(
        "--keep-staged",
        action="store_true",
        help="leave a staged update staged: it boots next once it is finalized (see 'bootc-fast hold')",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    options = RollbackOptions(
        to=arguments.to,
        dry_run=arguments.dry_run,
        loader=arguments.bootloader,
        apply=arguments.apply,
        soft_reboot=arguments.soft_reboot,
        allow_non_container=arguments.allow_non_container,
        verify=arguments.verify,
        force=arguments.force,
        keep_staged=arguments.keep_staged,
    )
    with show_progress(arguments) as on_event:
        outcome = run_async(lambda: rollback(arguments.root, options, on_event=on_event))
    print_errors(f"warning: {warning}" for warning in outcome.warnings)
    if arguments.json:
        from bootc_fast.etc.render import encode_entries
        from bootc_fast.records import asdict

        missing = encode_entries(outcome.etc_missing)
        print_json({**asdict(outcome), "etc_missing": missing, **_encode_boots_instead(outcome.boots_instead)})
    else:
        print_lines(render_outcome(outcome, toggled=arguments.to is None, verbose=bool(arguments.verbose)))
    return 0 if outcome.boots_instead is None else BootEntryError.exit_code


def _encode_boots_instead(instead: BootsInstead | None) -> dict[str, object]:
    """What boots in place of the wanted deployment, in the form of every failure; nothing where that boots."""
    if instead is None:
        return {}
    message = f"choosing the next boot: {instead.entry_name} boots, not of this host ({instead.reason})"
    return encode_error(BootEntryError(message, hint=instead.remedy))


def _render_missing(outcome: RollbackOutcome, *, verbose: bool) -> list[str]:
    """Say what is in the running /etc and not in the next boot's, or with which command it is listed."""
    if not outcome.etc_changes_missing:
        return []
    are = "is" if outcome.etc_changes_missing == 1 else "are"
    target = shorten_digest(outcome.next_boot).rstrip("…")
    hint = "" if verbose else f" (`bootc-fast rollback --to {target} --dry-run -v` lists them)"
    changes = count(outcome.etc_changes_missing, "local changes")
    lines = [f"  {changes} in /etc of the booted deployment {are} not in this one{hint}"]
    if verbose:
        from bootc_fast.etc.render import render_entries, summarise_entries

        entries = outcome.etc_missing
        lines += [f"    {line}" for line in (*render_entries(entries), summarise_entries(entries))]
    return lines


def render_outcome(outcome: RollbackOutcome, *, toggled: bool, verbose: bool = False) -> list[str]:
    """Say what was done, as bootc does and then some."""
    lines = []
    if outcome.is_revert and toggled:
        lines.append("notice: Reverting queued rollback state")
    if outcome.dropped_staged:
        verb = "would be dropped" if outcome.dry_run else "was dropped"
        lines.append(f"notice: The staged update {shorten_digest(outcome.dropped_staged)} {verb}")
    if outcome.kept_staged:
        staged = shorten_digest(outcome.kept_staged)
        lines.append(f"notice: The staged update {staged} stays, and boots next once it is finalized at shutdown")
        lines.append("  (`bootc-fast hold` keeps it from that)")
    which = "current" if outcome.is_revert else "rollback"
    is_first = outcome.boots_instead is None
    prefix = _PREFIXES[is_first, outcome.dry_run]
    lines.append(f"{prefix}: {which} deployment{'' if outcome.is_changed else ' (as before)'}")
    lines.append(f"  Image: {outcome.image_reference or 'unknown'}")
    if outcome.manifest_digest:
        lines.append(f"  Digest: {outcome.manifest_digest}")
    lines.append(f"  {'Commit' if outcome.is_ostree else 'Verity'}: {outcome.next_boot}")
    lines += _render_missing(outcome, verbose=verbose)
    lines += [f"  {note}" for note in outcome.restart_notes]
    leads_there = is_first or outcome.restart != "reboot"
    if outcome.restart and leads_there:
        lines.append(f"{'Would restart' if outcome.dry_run else 'Restart'} by: systemctl {outcome.restart}")
    elif outcome.restart:
        lines.append("Not restarted: it would not lead to that deployment")
    return [*lines, *render_boots_instead(outcome.boots_instead, dry_run=outcome.dry_run)]
