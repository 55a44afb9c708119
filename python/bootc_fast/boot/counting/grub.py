"""GRUB: variables of the environment block, which a script of ours counts down, and ``custom.cfg``, which runs it.

Written before the entries are replaced, in this order, each power-safe by itself: the script, which nothing reads yet;
the block in ``custom.cfg``, which does nothing without the variables; all variables at once. Until the entries are
replaced GRUB does not know the new names and boots its first entry, which is the old default.

The environment block is replaced as a whole and fresh, since GRUB writes over its sectors where they lie, which it
looks up at each boot: no hole, 1,024 bytes, on a file system and a device that it writes to.

Source:
    Spec trial.md, "Counting"; what GRUB 2.12 and 2.14 do: ``tests/vm/test_grub_counting.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.counting.grub_files import find_grub_files
from bootc_fast.boot.counting.grub_names import find_name, find_name_trouble, find_place
from bootc_fast.boot.counting.records import Counter, CountMethod, Decision, Fallback, RunningTrial
from bootc_fast.boot.loaders.grub_trial import (
    ALLOWED,
    FALLBACK,
    PLACE,
    SEEN,
    TRIAL,
    TRIES,
    VARIABLES,
    parse_tries,
    quote_name,
)
from bootc_fast.boot.loaders.grubenv import parse_grubenv
from bootc_fast.errors import BootEntryError
from bootc_fast.text import reason_of, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.counting.grub_files import GrubFiles
    from bootc_fast.boot.counting.records import CountContext, CountWish
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.entry import MenuEntry

_GREENBOOT = "grub.cfg counts boots itself, as greenboot has it (boot_counter): the new deployment is left to that"

Variables = dict[bytes, bytes | None]


class GrubCounter(Counter):
    """``Counter`` for GRUB."""

    def decide(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision:
        """Count wherever GRUB can be made to."""
        is_clear = not _select(dict(context.menu.live.environment))
        if not wish.tries:
            return Decision(plan, is_armed=is_clear)
        try:
            files = find_grub_files(context)
            if not isinstance(files, str) and files.config.counts_boots:
                return Decision(plan, notes=(_GREENBOOT,), is_armed=is_clear)
            found = files if isinstance(files, str) else _prepare(context, plan, files, wish.tries)
        except OSError as error:
            files = found = f"GRUB's files cannot be looked at: {reason_of(error)}"
        if isinstance(files, str) or isinstance(found, str):
            return Decision(plan, reason=str(found), is_armed=is_clear)
        tries, allowed = int(found[TRIES] or b"0"), int(found[ALLOWED] or b"0")
        is_set = _select(parse_grubenv(files.grubenv or b"")) == _drop_absent(found)
        return Decision(plan, CountMethod.GRUBENV, tries, is_armed=is_set and not files.list_changes(allowed))

    def begin(self, context: CountContext, decision: Decision) -> list[str]:
        """Write the script, the block and the variables."""
        if decision.method is not CountMethod.GRUBENV or decision.is_armed:
            return []
        files = find_grub_files(context)
        found = files if isinstance(files, str) else _prepare(context, decision.plan, files, decision.tries)
        if isinstance(files, str) or isinstance(found, str):
            # It was decided otherwise a moment ago.
            raise BootEntryError(str(found))
        files.write_script(int(found[ALLOWED] or b"0"))
        return files.write_variables(found)

    def take_back(self, context: CountContext, decision: Decision) -> list[str]:
        """Give the variables the values that they had when the menu was read; the script does nothing without them."""
        if decision.method is not CountMethod.GRUBENV or decision.is_armed:
            return []
        before = dict(context.menu.live.environment)
        return _write(context, {key: before.get(key) for key in VARIABLES})

    def arm(self, context: CountContext, decision: Decision) -> list[str]:
        """Where the new default is not counted, end what an earlier one was: GRUB would go on with that."""
        return self.end(context) if decision.method is None else []

    def read(self, context: CountContext) -> tuple[RunningTrial, ...]:
        """The trial of the variables, where its entry is in the menu."""
        values = dict(context.menu.live.environment)
        entry = _find_tried(context)
        if entry is None or entry.digest is None:
            return ()
        left, allowed = parse_tries(values)
        default = context.menu.default
        is_given_up = left == 0 and (default is None or default.digest != entry.digest)
        done = None if allowed is None else max(allowed - left, 0)
        return (RunningTrial(entry.digest, CountMethod.GRUBENV, left, done, is_given_up),)

    def count_start(self, context: CountContext) -> list[str]:
        """Take one off where GRUB has not since the tries were seen last; at none left GRUB boots the fallback.

        GRUB takes one off before it boots what is tried, so that a number that has not changed is a start around it: by
        a soft reboot, a kexec, ``next_entry``, or with the variables of before a power cut.
        """
        values = dict(context.menu.live.environment)
        entry = _find_tried(context)
        left, _allowed = parse_tries(values)
        if entry is None or entry.digest != context.booted or not left:
            return []
        number = b"%d" % (left - 1 if values.get(SEEN) == b"%d" % left else left)
        return _write(context, {**{key: values.get(key) for key in VARIABLES}, TRIES: number, SEEN: number})

    def has_leftovers(self, context: CountContext) -> bool:
        """Variables of a trial whose entry is not in the menu."""
        return bool(_select(dict(context.menu.live.environment))) and _find_tried(context) is None

    def end(self, context: CountContext) -> list[str]:
        """Clear the variables."""
        return _write(context, dict.fromkeys(VARIABLES))

    def plan_fallback(self, context: CountContext, *, is_wanted: bool) -> Fallback:
        """In ``custom.cfg``, where the entries are menuentries of ``user.cfg``."""
        files = find_grub_files(context)
        if isinstance(files, str):
            return Fallback(files)
        named = (one for one in context.menu.live.entries if one.menu_id is not None and one.digest == context.booted)
        entry = next(named, None) if is_wanted else None
        if is_wanted and entry is None:
            return Fallback("what runs has no menuentry in user.cfg")
        return files.plan_fallback(entry)


def _select(values: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: values[key] for key in VARIABLES if key in values}


def _drop_absent(values: Variables) -> dict[bytes, bytes]:
    return {key: value for key, value in values.items() if value is not None}


def _prepare(context: CountContext, plan: MenuPlan, files: GrubFiles, tries: int) -> Variables | str:
    """Return the variables of a trial of the plan's default, or say why it cannot be counted.

    Raises:
        OSError: It cannot be told.
    """
    found = _find_variables(context, plan, files, tries)
    if isinstance(found, str):
        return found
    found = _go_on(context, parse_grubenv(files.grubenv or b""), found, plan)
    return files.find_trouble(found, int(found[ALLOWED] or b"0"), is_real=context.is_live) or found


def _find_variables(context: CountContext, plan: MenuPlan, files: GrubFiles, tries: int) -> Variables | str:
    target = plan.default.digest
    others = [digest for digest in plan.order if digest != target]
    fallback = context.booted if context.booted in others else next(iter(others), None)
    if target is None or fallback is None:
        return "there is no other deployment to fall back to"
    found = {}
    for digest in (target, fallback):
        entry = next((one for one in plan.shown if one.is_own and one.digest == digest), None)
        if entry is None:
            return f"GRUB would not show the entry of deployment {shorten_digest(digest)}"
        trouble = find_name_trouble(entry, plan.shown)
        if trouble is not None:
            return trouble
        found[digest] = entry
    place = None if files.config.adds_items else find_place(found[fallback], context.menu, plan)
    return {
        TRIAL: quote_name(find_name(found[target])),
        FALLBACK: quote_name(find_name(found[fallback])),
        PLACE: None if place is None else b"%d" % place,
        TRIES: b"%d" % tries,
        ALLOWED: b"%d" % tries,
        SEEN: b"%d" % tries,
    }


def _go_on(context: CountContext, current: Mapping[bytes, bytes], wanted: Variables, plan: MenuPlan) -> Variables:
    """Keep a count that is under way, of the same deployment or the same entry: a publication may rename it."""
    left, allowed = parse_tries(current)
    entry = _find_tried(context)
    is_same = current.get(TRIAL) == wanted[TRIAL] or (entry is not None and entry.digest == plan.default.digest)
    if not left or allowed is None or not is_same:
        return wanted
    return {**wanted, TRIES: b"%d" % left, ALLOWED: b"%d" % allowed, SEEN: current.get(SEEN)}


def _find_tried(context: CountContext) -> MenuEntry | None:
    """Return the entry that the variables put on trial, where it is in the menu."""
    name = dict(context.menu.live.environment).get(TRIAL)
    entries = context.menu.live.entries if name else ()
    return next((one for one in entries if one.is_own and quote_name(find_name(one)) == name), None)


def _write(context: CountContext, values: Variables) -> list[str]:
    """Write variables where the environment block has other values; returns what failed, in words."""
    try:
        files = find_grub_files(context)
        if isinstance(files, str):
            has_any = _select(dict(context.menu.live.environment))
            return [f"GRUB's variables of a trial cannot be changed: {files}"] if has_any else []
        if _select(parse_grubenv(files.grubenv or b"")) == _drop_absent(values):
            return []
        return files.write_variables(values)
    except (OSError, ValueError) as error:
        why = reason_of(error) if isinstance(error, OSError) else error
        return [f"GRUB's variables of a trial cannot be changed: {why}"]
