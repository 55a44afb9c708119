"""systemd-boot: a counter in the default's name, which the loader renames at each boot, or one try by one-shot.

The loader's rename is the firmware's: it marks the name's slots as deleted and appends the new name behind the
directory's last one, each time. It must not make the directory grow (`entries.beside`), so that a counter is published
only where all of its renames fit behind the end mark of the last cluster; the set that is built beside the live one is
filled up for that.

Source:
    Spec trial.md, "Counting"; systemd ``src/boot/boot.c``; EDK II ``FatPkg``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bootc_fast.boot.area.directory import FileKind
from bootc_fast.boot.area.room import choose_fill
from bootc_fast.boot.counting.records import Counter, CountMethod, Decision, RunningTrial, WantedMethod
from bootc_fast.boot.entries.reader import ENTRIES, MAX_COPIED_BYTES
from bootc_fast.boot.loaders.entry import parse_entry, parse_text, rename_key, set_counters
from bootc_fast.boot.loaders.order import sort_entries
from bootc_fast.boot.loaders.override import OverrideKind, find_default
from bootc_fast.records import replace
from bootc_fast.text import count, escape_bytes, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.counting.records import CountContext, CountWish
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.entry import MenuEntry
    from bootc_fast.boot.loaders.override import LoaderOverride, LoaderVariables
    from bootc_fast.boot.loaders.record import LoaderRecord
    from bootc_fast.types import VerityDigest

ONE_SHOT = OverrideKind.ONE_SHOT.value
_MAX_PROGRAM_BYTES = 4 << 20
_MARK = b"#### LoaderInfo: "
_MAX_INFO_BYTES = 100


def read_program_info(context: CountContext) -> str | None:
    """Say what the loader that is installed calls itself, which boots next: it may be newer than what booted.

    Returns:
        Like ``LoaderInfo``; what ran last says itself where the program cannot be read.

    Source:
        systemd ``bootctl``: the program has ``#### LoaderInfo: systemd-boot 257.9 ####`` in it.
    """
    variables, record = context.variables, context.menu.record
    running = None if variables is None else variables.info
    for volume in (context.settings, context.esp, context.boot):
        if volume is None:
            continue
        for path in _list_programs(record, variables):
            try:
                data = volume.read_part(path, 0, _MAX_PROGRAM_BYTES)
            except OSError:
                continue
            start = data.find(_MARK)
            if start >= 0:
                text = data[start + len(_MARK) : start + len(_MARK) + _MAX_INFO_BYTES]
                return text.partition(b" ####")[0].decode("ascii", "replace")
    return running


def _list_programs(record: LoaderRecord, variables: LoaderVariables | None) -> tuple[bytes, ...]:
    told = variables.image_path if variables is not None else None
    if told is None:
        return record.program_names
    return (told.encode("utf-8", "replace").replace(b"\\", b"/").strip(b"/"), *record.program_names)


class SystemdBootCounter(Counter):
    """``Counter`` for systemd-boot; the counters are in the published set, and go with the names."""

    def decide(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision:
        """Take the counter where it can be had, else the one-shot, as the policy lets it."""
        if wish.tries == 0:
            return Decision(plan)
        reasons: list[str] = []
        if wish.method is not WantedMethod.ONE_SHOT:
            found = _decide_counter(context, plan, wish)
            if isinstance(found, Decision):
                return found
            reasons.append(found)
        if wish.method is not WantedMethod.COUNTER:
            found = _decide_one_shot(context)
            if isinstance(found, Decision):
                return replace(found, notes=tuple(f"one try instead of {wish.tries}: {one}" for one in reasons))
            if found not in reasons:
                reasons.append(found)
        return Decision(plan, reason="; ".join(reasons))

    def arm(self, context: CountContext, decision: Decision) -> list[str]:
        """Name the new entry for one boot."""
        if decision.method is not CountMethod.ONE_SHOT or decision.is_armed:
            return []
        entry = _find_tried(context, decision.plan)
        if entry is None or context.set_variable is None:
            return [f"{ONE_SHOT} is not set: the new deployment is not tried"]
        try:
            context.set_variable(ONE_SHOT, _identify(entry))
        except OSError as error:
            return [f"{ONE_SHOT} is not set, so that the new deployment is not tried: {reason_of(error)}"]
        return []

    def read(self, context: CountContext) -> tuple[RunningTrial, ...]:
        """Counters in names, and what was noted of one-shots."""
        found: dict[str, RunningTrial] = {}
        alive = {entry.digest for entry in context.menu.live.entries if entry.tries_left != 0}
        for entry in context.menu.live.files:
            if not entry.is_own or entry.digest is None or entry.tries_left is None:
                continue
            is_given_up = entry.digest not in alive
            one = RunningTrial(entry.digest, CountMethod.COUNTER, entry.tries_left, entry.tries_done, is_given_up)
            known = found.get(entry.digest)
            # Of two names, as a cut in the firmware's rename leaves them, the loader takes the one with more tries.
            if known is None or (known.tries_left or 0) < entry.tries_left:
                found[entry.digest] = one
        for digest in context.one_shots - found.keys():
            is_waiting = _is_named(context, digest)
            tried = int(not is_waiting)
            is_over = not is_waiting and digest != context.booted
            found[digest] = RunningTrial(digest, CountMethod.ONE_SHOT, 1 - tried, tried, is_over)
        return tuple(found.values())

    def count_start(self, context: CountContext) -> list[str]:
        """The one try of a one-shot is this one: the variable goes."""
        if context.set_variable is None or not _is_named(context, context.booted):
            return []
        try:
            context.set_variable(ONE_SHOT, None)
        except OSError as error:
            return [f"{ONE_SHOT} stays, so that the new deployment is tried again: {reason_of(error)}"]
        return []


def _identify(entry: MenuEntry) -> bytes:
    """What a one-shot has to name: an entry without counters is called alike by every version."""
    return entry.file_name.lower()


def _is_named(context: CountContext, digest: str) -> bool:
    named = [one for one in context.menu.live.overrides if one.kind is OverrideKind.ONE_SHOT]
    found = (context.menu.rule.find_match(one, context.menu.live.entries) for one in named)
    return any(entry is not None and entry.digest == digest for entry in found)


def _find_tried(context: CountContext, plan: MenuPlan) -> MenuEntry | None:
    return next((entry for entry in plan.shown if entry.is_own and entry.digest == context.target), None)


# -- by counter --------------------------------------------------------------------------------------------------------


def _decide_counter(context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision | str:
    """Decide for the counter, or say why it cannot be had."""
    tries = wish.tries
    if context.replan is not None and _has_counter(plan, context.booted):
        # The old default keeps none: of two at the end of theirs the first in order would boot for ever.
        plan = context.replan((), None)
    entry = plan.default
    if entry.tries_left is not None:
        return _keep_counter(context, plan, entry, entry.tries_left)
    if entry not in plan.new_files:
        return "the new boot entry is in force already, without a counter"
    translated = _translate(context, entry)
    if isinstance(translated, str):
        return translated
    counted = set_counters(translated, tries, wish.done)
    shown = tuple(counted if one == entry else one for one in plan.shown)
    reason = _find_defeat(context, plan, counted, shown) or _find_unread(context, plan)
    if reason:
        return reason
    if not _has_room(context, plan, entry, counted):
        return (
            f"/{escape_bytes(ENTRIES)} has no room behind its last name for {count(tries, 'renames')} by the firmware"
        )
    files = tuple(counted if one == entry else one for one in plan.new_files)
    counting = replace(plan, default=counted, new_files=files, shown=shown, boot_renames=tries)
    return Decision(counting, CountMethod.COUNTER, tries)


def _keep_counter(context: CountContext, plan: MenuPlan, entry: MenuEntry, left: int) -> Decision:
    """Somebody counts already: an earlier run of ours, or who staged it."""
    notes: tuple[str, ...] = ()
    if entry in plan.new_files and left:
        if _has_room(context, plan, entry, entry):
            plan = replace(plan, boot_renames=left)
        else:
            where = escape_bytes(ENTRIES)
            notes = (
                f"/{where} has no room for {count(left, 'renames')} by the firmware, and {entry.label} is counted",
            )
    return Decision(plan, CountMethod.COUNTER, left, notes=notes)


def _has_counter(plan: MenuPlan, digest: VerityDigest) -> bool:
    return any(one.is_own and one.digest == digest and one.tries_left is not None for one in plan.shown)


def _translate(context: CountContext, entry: MenuEntry) -> MenuEntry | str:
    """Put a UKI under the key that the installed version counts; or say why it does not count this entry."""
    info = read_program_info(context)
    counted = context.menu.record.find_counting(info).keys
    keys = {key for key, _value in parse_text(entry.raw).fields} & {b"linux", b"uki", b"efi"}
    if not keys or keys <= counted:
        return entry
    who = info or "a boot loader whose version is not known"
    old, new = (b"efi", b"uki") if keys == {b"efi"} else (b"uki", b"efi")
    if keys != {old} or new not in counted:
        return f"{who} does not count boots of an entry with the key {' and '.join(sorted(map(escape_bytes, keys)))}"
    written = parse_entry(entry.file_name, rename_key(entry.raw, old, new), known=context.menu.known)
    return replace(written, missing=entry.missing, is_own=entry.is_own, digest=entry.digest)


def _move(override: LoaderOverride, context: CountContext, plan: MenuPlan, counted: MenuEntry) -> LoaderOverride:
    if override not in plan.moved_overrides:
        return override
    return replace(override, value=context.menu.rule.identify(counted))


def _find_defeat(context: CountContext, plan: MenuPlan, counted: MenuEntry, shown: Sequence[MenuEntry]) -> str | None:
    """Play the loader until no try is left: say where it does not start the new entry, or starts it all the same."""
    menu = context.menu
    overrides = [_move(one, context, plan, counted) for one in menu.live.overrides]
    # A one-shot is gone after the next boot, whatever it names.
    overrides = [one for one in overrides if one.kind is not OverrideKind.ONE_SHOT]
    for left in (counted.tries_left, 0):
        entry = set_counters(counted, left, counted.tries_done or 0)
        entries = sort_entries([entry if one == counted else one for one in shown], menu.rule)
        choice = find_default(entries, menu.rule, overrides, menu.live.outside)
        label = "nothing" if choice.entry is None else choice.entry.label
        if left and choice.entry != entry:
            return f"the new deployment would not be tried: {label} boots ({choice.reason})"
        if not left and choice.entry == entry:
            why = f" ({choice.reason}): {choice.override.remedy}" if choice.override is not None else ""
            return f"the new deployment would be booted without any tries left{why}"
        if not left and (choice.entry is None or not choice.entry.is_own or choice.entry.tries_left is not None):
            return f"after the last try {label} would boot, and not another deployment without a counter"
    return None


def _find_unread(context: CountContext, plan: MenuPlan) -> str | None:
    """Say what makes the set one that cannot be built beside the live one."""
    menu = context.menu
    if menu.live.unread_overrides:
        return f"{' or '.join(menu.live.unread_overrides)} cannot be read, and may pick another entry"
    if not context.boot.is_fat():
        return None
    what = f"/{escape_bytes(ENTRIES)}"
    if plan.makes_directory:
        return f"{what} is not there"
    try:
        directory = context.boot.open_plain_directory(ENTRIES)
        if directory is None:
            return f"{what} is no plain directory"
        with contextlib.closing(directory):
            odd = [
                name
                for name in directory.list_names()
                if name not in plan.removed and directory.find_kind(name) is not FileKind.FILE
            ]
            for name in set(directory.list_names()) - {*odd, *plan.removed}:
                directory.read(name, MAX_COPIED_BYTES)
    except OSError as error:
        return f"{what} cannot be copied: {reason_of(error)}"
    return f"{what} cannot be copied: {escape_bytes(odd[0])} is no file" if odd else None


# -- room for the firmware's renames -----------------------------------------------------------------------------------


def _has_room(context: CountContext, plan: MenuPlan, entry: MenuEntry, counted: MenuEntry) -> bool:
    """Say whether the set that is built beside the live one can have the room; elsewhere nothing grows badly."""
    written = [one.file_name for one in plan.new_files if one != entry]
    stays = context.menu.live.names - {*plan.removed, *written, counted.file_name}
    return choose_fill(context.boot, [*written, *stays], counted.file_name, counted.tries_left or 0) is not None


# -- by one-shot -------------------------------------------------------------------------------------------------------


def _decide_one_shot(context: CountContext) -> Decision | str:
    """Decide for the one-shot, or say why it cannot be had."""
    reason = _refuse_one_shot(context)
    if reason is not None or context.replan is None or context.target is None:
        return reason or "nothing is to be tried"
    plan = context.replan((context.booted, context.target), context.target)
    entry, first = _find_tried(context, plan), _boots_without(context, plan)
    if entry is None or entry.tries_left is not None:
        return "the new boot entry cannot be named"
    if first is None or not first.is_own or first.digest == context.target:
        label = "nothing" if first is None else first.label
        return f"after the try {label} would boot, and not the deployment that runs"
    named = [one.value.lower() for one in context.menu.live.overrides if one.kind is OverrideKind.ONE_SHOT]
    return Decision(plan, CountMethod.ONE_SHOT, 1, is_armed=named == [_identify(entry)])


def _refuse_one_shot(context: CountContext) -> str | None:
    """Say why no one-shot can be set, whatever it is to name."""
    menu = context.menu
    if context.set_variable is None or context.variables is None or context.variables.info is None:
        return "there are no EFI variables of the boot loader"
    if context.target == context.booted:
        return "the deployment that runs is the one that is to be tried"
    if context.booted not in menu.own_order:
        return "the deployment that runs has no boot entry to fall back to"
    set_already = [one for one in menu.live.overrides if one.kind is OverrideKind.ONE_SHOT]
    if set_already and (context.target is None or not _is_named(context, context.target)):
        return f"{ONE_SHOT} is set already and would be lost: {set_already[0].remedy}"
    return None


def _boots_without(context: CountContext, plan: MenuPlan) -> MenuEntry | None:
    overrides = [
        _move(one, context, plan, plan.default)
        for one in context.menu.live.overrides
        if one.kind is not OverrideKind.ONE_SHOT
    ]
    return find_default(plan.shown, context.menu.rule, overrides, context.menu.live.outside).entry
