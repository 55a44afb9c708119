"""Where a lab host stands, read from its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bootc_fast.lab.firmware import read_boot_menu
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.lab.layout import LabHost


def collect_facts(host: LabHost) -> dict[str, Any]:
    """Collect what ``lab show --json`` prints.

    Returns:
        ``root``, ``loader``, ``algorithm``, ``booted``, ``staged`` (None without a marker), ``locked``,
        ``deployments`` (digests), ``entries`` and ``staged_entries`` (in the loader's order; ``file``, ``title``,
        ``digest``, ``boot_type``, ``next``), ``warnings``.

    Raises:
        FileSystemError: The boot entries cannot be listed.
    """
    menu = read_boot_menu(host)
    staged, locked = _read_marker(host)

    def describe(entries: Sequence[MenuEntry]) -> list[dict[str, Any]]:
        return [
            {
                "file": entry.label,
                "title": (entry.title or b"").decode(errors="replace"),
                "digest": entry.digest,
                "boot_type": str(entry.boot_type),
                "next": entry is menu.default,
            }
            for entry in entries
        ]

    return {
        "root": str(host.root),
        "loader": str(host.loader),
        "algorithm": str(host.algorithm),
        "booted": host.booted,
        "staged": staged,
        "locked": locked,
        "deployments": list(host.deployments),
        "entries": describe(menu.live.entries),
        "staged_entries": describe(menu.staged.entries),
        "warnings": list(menu.odd.warnings),
    }


def _read_marker(host: LabHost) -> tuple[str | None, bool]:
    try:
        text = host.marker.read_text().strip()
    except FileNotFoundError:
        return None, False
    if not text.startswith("{"):
        return text, False
    marker = json.loads(text)
    return str(marker["depl_id"]), bool(marker.get("finalization_locked"))


def render_facts(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people; digests are shortened."""
    lines = [f"{facts['root']}: {facts['loader']}, {facts['algorithm']}", "Deployments:"]
    for digest in facts["deployments"]:
        notes = ["booted"] if digest == facts["booted"] else []
        if digest == facts["staged"]:
            notes.append("staged, locked" if facts["locked"] else "staged")
        lines.append(f"  {shorten_digest(digest, 12)}  {', '.join(notes)}".rstrip())
    for name, heading in (("entries", "Boot entries, first boots next:"), ("staged_entries", "Staged entries:")):
        if facts[name]:
            lines.append(heading)
        for entry in facts[name]:
            digest = shorten_digest(entry["digest"] or "foreign", 12)
            lines.append(f"  {'>' if entry['next'] else ' '} {digest}  {entry['boot_type']}  {entry['file']}")
    return [*lines, *(f"Warning: {warning}" for warning in facts["warnings"])]
