"""A host's status on one screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bootc_fast.cli.render import paint
from bootc_fast.types import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.ostree import OstreeDeployment
    from bootc_fast.outcome import OutcomeRecord
    from bootc_fast.status_report import DeploymentStatus, HostStatus, StagedStatus

_SHORT_CHARS = 16
_WHOLE_DIGEST = re.compile(r"[0-9a-f]{128}|[0-9a-f]{64}")
_LABEL_CHARS = 10


class StatusText:
    """Renders one status.

    Args:
        status: What to render.
        colour: Use ANSI styles.
        verbose: Show whole digests and file names.
    """

    def __init__(self, status: HostStatus, *, colour: bool, verbose: bool) -> None:
        self.status = status
        self.colour = colour
        self.verbose = verbose

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
            if status.rollback_etc_changes is not None:
                plural = "" if status.rollback_etc_changes == 1 else "s"
                text = f"lacks {status.rollback_etc_changes} local change{plural} in the running /etc"
                yield self._row("Changes", text)
        for other in status.others:
            yield from self._deployment("Other", other)
        yield ""
        yield self._next_boot()
        if status.last_finalize is not None:
            yield from self._last_finalize(status.last_finalize)
        for warning in status.warnings:
            yield self._paint("yellow", f"warning: {self._shorten(warning)}")

    def _paint(self, style: str, text: str) -> str:
        return paint(text, style, enabled=self.colour)

    def _digest(self, digest: str) -> str:
        return digest if self.verbose else f"{digest[:_SHORT_CHARS]}…"

    def _shorten(self, text: str) -> str:
        """Shorten the digests in a text, which are most of it: paths and names hold them once or twice."""
        return _WHOLE_DIGEST.sub(lambda found: self._digest(found[0]), text)

    def _commit(self, one: OstreeDeployment) -> str:
        checksum = one.checksum if self.verbose else f"{one.checksum[:_SHORT_CHARS]}…"
        pinned = ", pinned" if one.is_pinned else ""
        return f"{checksum}.{one.serial} in stateroot {one.stateroot}{pinned}"

    def _deployment(self, role: str, one: DeploymentStatus, *, mark: str = " ") -> Iterator[str]:
        name = one.image.image if one.image else (one.title or "image unknown")
        if one.image and one.image.transport != "registry":
            name = f"{one.image.transport}:{name}"
        head = f"{mark} {role:<{_LABEL_CHARS}}{name}"
        broken = self._paint("red", "  (broken)") if one.problems else ""
        yield self._paint("bold", head) + broken + (self._paint("green", "  ← boots next") if one.boots_next else "")
        facts = [one.facts.version or one.version, one.facts.timestamp, one.boot_type]
        described = ", ".join(str(fact) for fact in facts if fact)
        yield self._row("Version", described or "unknown")
        origin = one.deployment.origin
        if origin and origin.manifest_digest:
            shown = origin.manifest_digest if self.verbose else f"{origin.manifest_digest[: _SHORT_CHARS + 7]}…"
            yield self._row("Digest", shown)
        if one.ostree is not None:
            yield self._row("Commit", self._commit(one.ostree))
        else:
            yield self._row("Verity", self._digest(one.digest))
        if self.verbose and one.entry_name:
            yield self._row("Entry", one.entry_name)
        if one.soft_reboot is not None and (self.verbose or one.soft_reboot.is_possible or one.boots_next):
            yield self._row("Restart", f"soft reboot: {one.soft_reboot}")
        for problem in one.problems:
            yield self._paint("red", self._row("Problem", self._shorten(problem)))

    def _row(self, label: str, text: str) -> str:
        return f"  {'':<{_LABEL_CHARS}}{label + ':':<9}{text}"

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
        yield self._paint(style, self._row("Update", f"{answer}: {first}"))
        for reason in more:
            yield self._paint(style, self._row("", f"and: {reason}"))

    def _next_boot(self) -> str:
        status = self.status
        roles = {
            status.booted.digest: "the booted deployment",
            **({status.rollback.digest: "the rollback deployment"} if status.rollback else {}),
            **({status.staged.digest: "the staged deployment"} if status.staged else {}),
        }
        digest = status.next_boot.digest
        which = "cannot be told" if status.next_boot.entry_name is None else "an entry that is not of this host"
        if digest is not None:
            which = roles.get(digest, "another deployment")
        name = f" {status.next_boot.entry_name}" if status.next_boot.entry_name else ""
        queued = " (a rollback is queued)" if status.rollback_queued and digest not in self._staged_digests() else ""
        why = self._shorten(f" —{name} ({status.next_boot.reason})")
        return self._paint("bold", f"Next boot: {which}{queued}") + why

    def _staged_digests(self) -> set[str]:
        return {self.status.staged.digest} if self.status.staged else set()

    def _last_finalize(self, record: OutcomeRecord) -> Iterator[str]:
        what = f"Last finalize: {record.time} "
        if record.result is Result.DONE:
            kept = record.counts.get("kept")
            yield f"{what}done" + (
                f", {kept} local change{'' if kept == 1 else 's'} in /etc kept" if kept is not None else ""
            )
            return
        if record.result is Result.INTERRUPTED:
            yield self._paint("red", f"{what}INTERRUPTED: it was killed, or the power went; the update waits")
            return
        yield self._paint("red", f"{what}FAILED")
        for error in record.errors:
            yield f"  {error.message}"
            yield from (f"    caused by: {line}" for line in error.chain)
            if error.hint:
                yield f"    hint: {error.hint}"
