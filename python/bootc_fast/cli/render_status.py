"""A host's status on one screen."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.boot.loaders.override import OverrideKind
from bootc_fast.cli.render import Painted, paint
from bootc_fast.text import count, escape, shorten_digest, shorten_digests
from bootc_fast.trial.states import TrialState
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.ostree.sysroot import OstreeDeployment
    from bootc_fast.report.finalize import OutcomeRecord
    from bootc_fast.report.status import DeploymentStatus, HostStatus, StagedStatus
    from bootc_fast.restart.soft import SoftRebootVerdict
    from bootc_fast.types import VerityDigest

_ROLE_CHARS = 12
_LABEL_CHARS = 13
_RESET = "`bootc-fast soft-reboot --reset` clears that"
# Overrides that the loader takes away when it has obeyed them.
_ONCE = frozenset({OverrideKind.ONE_SHOT.value, OverrideKind.GRUB_NEXT.value})
# Without -v: each of them is enough to say no.
_MAX_REASONS = 2
_TRIALS = {
    TrialState.NEW: "new, not tried yet",
    TrialState.TRIAL: "on trial",
    TrialState.GOOD: "good",
    TrialState.FAILED: "failed",
}
_FOREIGN = "NOT a deployment of this host"


class StatusText:
    """Renders one status.

    Args:
        status: What to render.
        colour: Use ANSI styles.
        verbose: Show whole digests, file names, and what a rollback changes in /etc path by path.
        width: Where lines are wrapped, in characters; None where they are not.
    """

    def __init__(self, status: HostStatus, *, colour: bool, verbose: bool, width: int | None = None) -> None:
        self.status = status
        self.colour = colour
        self.verbose = verbose
        self.width = width

    def lines(self, *, booted_only: bool = False) -> Iterator[str]:
        """All lines; with `booted_only` those of the booted deployment."""
        status = self.status
        yield from self._deployment("Booted", status.booted, mark="●")
        if booted_only:
            return
        if status.staged is not None:
            yield from self._deployment("Staged", status.staged)
            if status.staged_status is not None:
                yield from self._staged(status.staged_status)
        if status.rollback is not None:
            yield from self._deployment("Rollback", status.rollback)
            if status.rollback_etc is not None:
                yield from self._etc(status.rollback_etc)
        for other in status.others:
            yield from self._deployment("Other", other)
        yield ""
        yield from self._next_boot()
        yield from self._prepared()
        if status.last_finalize is not None:
            yield from self._last_finalize(status.last_finalize)
        for warning in self._unsaid_warnings():
            yield from self._wrap(f"warning: {self._shorten(warning)}", indent=2, style="yellow")

    def _wrap(self, text: str, *, indent: int = 0, style: str | None = None) -> Iterator[str]:
        """Wrap a line; what follows its first line is indented."""
        text = escape(text)
        lines = [text]
        if self.width is not None and len(text) > self.width:
            lines = textwrap.wrap(
                text,
                self.width,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
                drop_whitespace=True,
            )
        for line in lines:
            yield line if style is None else paint(line, style, enabled=self.colour)

    def _row(self, label: str, text: str, style: str | None = None) -> Iterator[str]:
        label = f"{label}:" if label else ""
        return self._wrap(
            f"{'':<{_ROLE_CHARS}}{label:<{_LABEL_CHARS}}{text}", indent=_ROLE_CHARS + _LABEL_CHARS, style=style
        )

    def _digest(self, digest: str) -> str:
        return digest if self.verbose else shorten_digest(digest)

    def _shorten(self, text: str) -> str:
        return text if self.verbose else shorten_digests(text)

    def _commit(self, one: OstreeDeployment) -> str:
        checksum = self._digest(one.checksum)
        pinned = ", pinned" if one.is_pinned else ""
        return f"{checksum}.{one.serial} in stateroot {one.stateroot}{pinned}"

    def _deployment(self, role: str, one: DeploymentStatus, *, mark: str = " ") -> Iterator[str]:
        name = one.image.image if one.image else (one.title or "image unknown")
        if one.image and one.image.transport != "registry":
            name = f"{one.image.transport}:{name}"
        head = paint(f"{mark} {role:<{_ROLE_CHARS - 2}}{name}", "bold", enabled=self.colour)
        broken = paint("  (broken)", "red", enabled=self.colour) if one.problems else ""
        first = paint("  ← boots next", "green", enabled=self.colour) if one.boots_next else ""
        yield Painted(f"{head}{broken}{first}")
        built = f"built {one.facts.timestamp}" if one.facts.timestamp else None
        kind = one.boot_type.value.upper() if one.boot_type else None
        facts = [one.facts.version or one.version or "unknown", built, kind]
        yield from self._row("Version", ", ".join(fact for fact in facts if fact))
        yield from self._identity(one)
        if one.trial is not None and (self.verbose or one.trial.state is TrialState.TRIAL):
            since = f" since {one.trial.time}" if one.trial.time else ""
            until = ", until a boot of it is complete" if one.trial.state is TrialState.TRIAL else ""
            counted = "" if one.counting is None else self._counting(one, one.counting)
            yield from self._row("Trial", f"{_TRIALS[one.trial.state]}{since}{until}{counted}")
        if one.soft_reboot is not None and not one.problems and (role != "Other" or self.verbose):
            yield from self._soft_reboot(one.soft_reboot)
        for remark in one.remarks:
            yield from self._row("Note", self._shorten(remark), "yellow")
        for problem in one.problems:
            yield from self._row("Problem", self._shorten(problem), "red")

    def _counting(self, one: DeploymentStatus, running: RunningTrial) -> str:
        """How often it is tried yet, and what happens then."""
        runs = one.digest == self.status.booted.digest
        if running.method is CountMethod.ONE_SHOT:
            return "; this is its only try" if runs else "; one try, by LoaderEntryOneShot"
        if running.tries_left is None:
            return ""
        done = f", {running.tries_done} done" if running.tries_done else ""
        if not running.tries_left:
            return f"; this is its last try{done}" if runs else f"; no try left{done}"
        tries = "1 try" if running.tries_left == 1 else f"{running.tries_left} tries"
        left = f"; {tries} left{done}"
        return f"{left}, then the boot loader falls back"

    def _soft_reboot(self, verdict: SoftRebootVerdict) -> Iterator[str]:
        first, *more = verdict.reasons or ("",)
        yield from self._row("Soft reboot", f"no: {first}" if first else "yes")
        shown = more if self.verbose else more[: _MAX_REASONS - 1]
        for reason in shown:
            yield from self._row("", f"and: {reason}")
        if len(shown) < len(more):
            yield from self._row("", f"and {len(more) - len(shown)} more (-v lists them)")

    def _identity(self, one: DeploymentStatus) -> Iterator[str]:
        origin = one.deployment.origin
        if origin and origin.manifest_digest:
            yield from self._row("Digest", self._digest(origin.manifest_digest))
        if one.ostree is not None:
            yield from self._row("Commit", self._commit(one.ostree))
        else:
            yield from self._row("Verity", self._digest(one.digest) + (", pinned" if one.is_pinned else ""))
        if self.verbose and one.entry_name:
            yield from self._row("Entry", one.entry_name)

    def _etc(self, missing: tuple[EtcDiffEntry, ...]) -> Iterator[str]:
        from bootc_fast.etc.render import render_entries

        if not missing:
            yield from self._row("/etc", "has every local change of the running /etc")
            return
        more = "" if self.verbose else " (-v lists them)"
        yield from self._row("/etc", f"lacks {count(len(missing), 'local changes')} of the running /etc{more}")
        for line in render_entries(missing) if self.verbose else ():
            yield from self._row("", line)

    def _staged(self, staged: StagedStatus) -> Iterator[str]:
        if staged.is_finalized:
            answer, style = "has been applied", "green"
        elif staged.will_be_applied:
            answer, style = "will be applied at shutdown", "green"
        elif staged.will_be_applied is None:
            answer, style = "can be applied", "green"
        else:
            answer, style = "will NOT be applied at shutdown", "red"
        first, *more = staged.reasons or ("",)
        yield from self._row("Update", f"{answer}: {self._shorten(first)}", style)
        for reason in more:
            yield from self._row("", f"and: {self._shorten(reason)}", style)
        record = self.status.last_finalize
        said = {error.hint for error in record.errors} if record is not None and record.has_failed else set()
        for hint in staged.hints:
            if hint not in said:
                yield from self._row("", f"hint: {hint}")

    def _name(self, digest: VerityDigest) -> str:
        """What a deployment is to this host."""
        status = self.status
        roles = {
            status.booted.digest: "the booted deployment",
            **({status.rollback.digest: "the rollback deployment"} if status.rollback else {}),
            **({status.staged.digest: "the staged deployment"} if status.staged else {}),
        }
        return roles.get(digest, f"another deployment, {self._digest(digest)}")

    def _next_boot(self) -> Iterator[str]:
        status, staged = self.status, self.status.staged_status
        boot = status.next_boot
        why = self._shorten(f" — {boot.entry_name} ({boot.reason})")
        if boot.digest is None:
            text = f"cannot be told: {boot.reason}" if boot.entry_name is None else f"{_FOREIGN}{why}"
            yield from self._wrap(f"Next boot: {text}", indent=2, style="red")
            return
        which = self._name(boot.digest)
        is_staged = status.staged is not None and boot.digest == status.staged.digest
        if staged is not None and staged.will_be_applied and not staged.is_finalized:
            yield from self._wrap("Next boot: the staged deployment, once it is applied at shutdown", style="bold")
            yield from self._wrap(f"  if that fails: {which}{why}", indent=4)
            return
        if staged is not None and not is_staged:
            which += ", NOT the staged one" if staged.will_be_applied is False else " until the staged one is applied"
        elif boot.override in _ONCE:
            which += ", once"
        elif status.rollback_queued and not is_staged and boot.override is None:
            which += " (a rollback is queued; `bootc-fast rollback` takes it back)"
        yield from self._wrap(f"Next boot: {which}{why}", indent=2, style="bold")

    def _prepared(self) -> Iterator[str]:
        """What a plain reboot does instead."""
        prepared = self.status.prepared
        if prepared is None:
            return
        if prepared.is_kexec_loaded:
            text = (
                "Prepared: a kernel is loaded for kexec: `systemctl reboot` starts it, whatever the loader would boot"
            )
            yield from self._wrap(text, indent=2, style="yellow")
        if prepared.has_next_root:
            what = "something" if prepared.digest is None else self._name(prepared.digest)
            other = ", which is not what the loader boots next"
            differs = other if prepared.digest != self.status.next_boot.digest else ""
            text = (
                f"Prepared: {what} is mounted at /run/nextroot{differs}: `systemctl reboot` enters it by a soft reboot;"
                f" {_RESET}"
            )
            yield from self._wrap(text, indent=2, style="yellow")

    def _last_finalize(self, record: OutcomeRecord) -> Iterator[str]:
        what = f"Last finalize: {record.time} "
        if record.result is Result.DONE:
            kept = record.counts.get("kept")
            shown = f", {count(kept, 'local changes')} in /etc kept" if kept is not None else ""
            yield from self._wrap(f"{what}done{shown}", indent=2)
            return
        if record.result is Result.INTERRUPTED:
            text = f"{what}INTERRUPTED: it was killed, or the power went; the update waits"
            yield from self._wrap(text, indent=2, style="red")
            return
        yield from self._wrap(f"{what}FAILED", style="red")
        for error in record.errors:
            yield from self._wrap(f"  {self._shorten(error.message)}", indent=4)
            for line in error.chain:
                yield from self._wrap(f"    caused by: {self._shorten(line)}", indent=6)
            if error.hint:
                yield from self._wrap(f"    hint: {error.hint}", indent=6)

    def _unsaid_warnings(self) -> Iterator[str]:
        """The warnings, less those that stand above already: next boot, and problems of a deployment."""
        status = self.status
        known = [one for one in (status.booted, status.staged, status.rollback, *status.others) if one is not None]
        said = tuple(f"{one.entry_name} names " for one in known if one.problems and one.entry_name)
        if status.next_boot.digest is None and status.next_boot.entry_name is not None:
            said = (*said, f"the loader boots {status.next_boot.entry_name} first, ")
        return (warning for warning in status.warnings if not warning.startswith(said))
