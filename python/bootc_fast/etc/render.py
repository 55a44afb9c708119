"""Merge reports, operations and differences as text for people and as plain values for JSON.

Text has one line a path: a mark, the path, the reason. Nothing that a terminal would act on leaves here: control
characters and bytes that are not UTF-8 are escaped. In JSON a path that is not UTF-8 is ``{"base64": …}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bootc_fast.text import count, encode_bytes, escape, escape_bytes
from bootc_fast.types import EtcAction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bootc_fast.etc.diff import EtcDiff, EtcDiffEntry
    from bootc_fast.types import EtcChange, EtcConflict, EtcOperation, EtcReport

MARKS = {
    "kept": "K",
    "deleted": "D",
    "image_changes_ignored": "I",
    "image_additions_kept": "N",
    "conflicts": "C",
    "dangling_links": "L",
    "warnings": "W",
}
"""The lists of a report, in the order in which they are shown, and the mark of each."""

DIFF_MARKS = {"added": "A", "modified": "M", "deleted": "D"}
"""Of local changes."""


def render_path(path: bytes) -> str:
    """A path below /etc for people, as they would type it."""
    return "/etc" + (f"/{escape_bytes(path)}" if path else "")


def render_report(report: EtcReport) -> list[str]:
    """Render a report for people.

    Returns:
        One line a path, sorted by list, then a line of counts.
    """
    lines: list[str] = []
    for name in ("kept", "deleted", "image_changes_ignored", "image_additions_kept"):
        lines += _change_lines(MARKS[name], getattr(report, name))
    lines += [_conflict_line(conflict) for conflict in report.conflicts]
    lines += _change_lines(MARKS["dangling_links"], report.dangling_links)
    lines += _change_lines(MARKS["warnings"], report.warnings)
    lines.append(_summary(report))
    return lines


def _change_lines(mark: str, changes: Iterable[EtcChange]) -> Iterator[str]:
    for change in changes:
        yield f"{mark} {render_path(change.path)}" + (f"  {escape(change.reason)}" if change.reason else "")


def _conflict_line(conflict: EtcConflict) -> str:
    kept = "" if conflict.saved_as is None else f", the other kept as {render_path(conflict.saved_as)}"
    decision = "not decided" if conflict.strategy == "fail" else f"{conflict.strategy} wins{kept}"
    return (
        f"{MARKS['conflicts']} {render_path(conflict.path)}  here {escape(conflict.current)};"
        f" new image {escape(conflict.new)}; {decision}"
    )


def _summary(report: EtcReport) -> str:
    """Count each list, with its mark: what the marks above mean."""
    counts = [
        f"{count(len(getattr(report, name)), name.replace('_', ' '))} ({mark})"
        for name, mark in MARKS.items()
        if getattr(report, name)
    ]
    return ", ".join(counts) if counts else "no local changes"


def summarise_entries(entries: Iterable[EtcDiffEntry]) -> str:
    """Count local changes of each kind, with its mark."""
    changes = [entry.change for entry in entries]
    return ", ".join(f"{changes.count(one)} {one} ({mark})" for one, mark in DIFF_MARKS.items() if one in changes)


def encode_report(report: EtcReport) -> dict[str, Any]:
    """Turn a report into plain values for JSON."""
    lists: dict[str, Any] = {
        name: _encode_changes(getattr(report, name))
        for name in ("kept", "deleted", "image_changes_ignored", "image_additions_kept", "dangling_links", "warnings")
    }
    lists["conflicts"] = [_encode_conflict(conflict) for conflict in report.conflicts]
    phases = {name: round(seconds, 6) for name, seconds in report.phase_s.items()}
    return {**lists, "counts": dict(report.counts), "bytes_copied": report.bytes_copied, "phase_s": phases}


def _encode_changes(changes: Iterable[EtcChange]) -> list[dict[str, Any]]:
    return [{"path": encode_bytes(change.path), "reason": change.reason} for change in changes]


def _encode_conflict(conflict: EtcConflict) -> dict[str, Any]:
    return {
        "path": encode_bytes(conflict.path),
        "current": conflict.current,
        "new": conflict.new,
        "strategy": str(conflict.strategy),
        "saved_as": None if conflict.saved_as is None else encode_bytes(conflict.saved_as),
    }


def render_operations(operations: Iterable[EtcOperation]) -> list[str]:
    """Render operations for people, one a line, in the order in which they are carried out."""
    return [f"{operation.action} {render_path(operation.path)}{_details(operation)}" for operation in operations]


def _details(operation: EtcOperation) -> str:
    if operation.action == EtcAction.WRITE_FILE:
        return f"  {operation.size_bytes} bytes"
    if operation.action == EtcAction.REMOVE and operation.entries != 1:
        return f"  {operation.entries} entries"
    if operation.link_to is not None:
        return f"  to {render_path(operation.link_to)}"
    return f"  {', '.join(operation.attributes)}" if operation.attributes else ""


def encode_operations(operations: Iterable[EtcOperation]) -> list[dict[str, Any]]:
    """Turn operations into plain values for JSON; what an action does not have is left out."""
    return [_encode_operation(operation) for operation in operations]


def _encode_operation(operation: EtcOperation) -> dict[str, Any]:
    facts: dict[str, Any] = {"action": str(operation.action), "path": encode_bytes(operation.path)}
    if operation.size_bytes is not None:
        facts["size_bytes"] = operation.size_bytes
    if operation.entries is not None:
        facts["entries"] = operation.entries
    if operation.link_to is not None:
        facts["link_to"] = encode_bytes(operation.link_to)
    if operation.attributes:
        facts["attributes"] = list(operation.attributes)
    return facts


def render_entries(entries: Iterable[EtcDiffEntry]) -> list[str]:
    """Render local changes for people, one a line: mark, path, reason."""
    return [f"{entry.mark} {render_path(entry.path)}{_why(entry)}" for entry in entries]


def _why(entry: EtcDiffEntry) -> str:
    """Say which attributes changed, and in brackets what they were and are."""
    detail = f"  ({escape(entry.detail)})" if entry.detail else ""
    return (f"  {escape(entry.reason)}" if entry.reason else "") + detail


def encode_entries(entries: Iterable[EtcDiffEntry]) -> list[dict[str, Any]]:
    """Turn local changes into plain values for JSON."""
    return [
        {
            "change": entry.change,
            "path": encode_bytes(entry.path),
            "reason": entry.reason,
            "detail": entry.detail,
        }
        for entry in entries
    ]


def render_diff(diff: EtcDiff) -> list[str]:
    """Render differences for people; with a new image, what a merge with it would do follows."""
    lines = render_entries(diff.entries)
    lines += _change_lines(MARKS["warnings"], diff.warnings)
    lines += [summarise_entries(diff.entries)] if diff.entries else []
    if diff.image:
        lines += ["", "changed by the new image:", *render_entries(diff.image)]
    if diff.merge is not None:
        lines += ["", "merge with the new image:", *render_report(diff.merge)]
    return lines


def encode_diff(diff: EtcDiff) -> dict[str, Any]:
    """Turn differences into plain values for JSON."""
    return {
        "changes": encode_entries(diff.entries),
        "warnings": _encode_changes(diff.warnings),
        "merge": None if diff.merge is None else encode_report(diff.merge),
        "image": encode_entries(diff.image),
        "patches": [{"path": encode_bytes(patch.path), "text": encode_bytes(patch.data)} for patch in diff.patches],
    }
