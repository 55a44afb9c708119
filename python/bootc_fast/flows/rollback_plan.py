"""Which deployment a rollback leads to, and on a composefs host the boot entries that takes.

Source:
    Spec commands.md, "rollback"; bootc ``bootc_composefs/rollback.rs`` and ``deploy.rs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.choose import (
    choose_entry,
    find_rollback_target,
    is_rollback_queued,
)
from bootc_fast.boot.entries.deployment_order import order_after_rollback
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.errors import (
    BootEntryError,
    FileSystemError,
    InvalidStateError,
    NoRollbackTargetError,
    UsageError,
)
from bootc_fast.flows.naming import MIN_PREFIX_CHARS, find_named, find_tag, list_names
from bootc_fast.report.rollback import BOOTED, PREVIOUS
from bootc_fast.text import escape_bytes, shorten_digest
from bootc_fast.trial.verdict import refuse_failed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.ostree.deployment import OstreeDeployment, OstreeSurvey
    from bootc_fast.trial.states import TrialRecord
    from bootc_fast.types import VerityDigest

_CHOOSING = "choosing what to roll back to"
OTHER_HINT = "`bootc-fast status` lists the deployments; --to names another one"


def plan_rollback(
    survey: Survey,
    menu: BootMenu,
    *,
    to: str | None = None,
    force: bool = False,
    verify: bool = True,
    states: Mapping[VerityDigest, TrialRecord] | None = None,
) -> MenuPlan:
    """Choose what boots next, check that it can, and plan the boot entries. Pure.

    Args:
        survey: The host's deployments.
        menu: Its boot entries.
        to: As for :func:`rollback`.
        force: Also take a target that failed its trial.
        verify: Refuse a target whose boot files are missing.
        states: What is known of trials; None knows what boot counters say.

    Returns:
        The plan; its first deployment is the chosen one.

    Raises:
        NoRollbackTargetError, UsageError, InvalidStateError, TrialFailedError, BootEntryError: As from `rollback`.
    """
    shown = menu.settled
    target = _choose_target(survey, shown, to)
    survey.refuse_not_handled("rolling back", survey.booted.digest, target)
    if not force:
        # What runs on its last try has not failed yet.
        refuse_failed(states or {}, target, shown if target != survey.booted.digest else None, doing="rolling back to")
    _check_target(survey, shown, target, verify=verify)
    kept = {survey.booted.digest, *survey.kept, *([survey.marker.digest] if survey.marker else [])}
    return plan_menu(menu, order=order_after_rollback(shown, first=target, kept=kept), staged=None, verify=verify)


def _choose_target(survey: Survey, menu: BootMenu, to: str | None) -> VerityDigest:
    booted = survey.booted.digest
    order = menu.own_order
    staged = survey.marker.digest if survey.marker else None
    previous = find_rollback_target(menu, booted=booted, staged=staged)
    is_queued = is_rollback_queued(menu, booted=booted) and not _is_last_try(menu, booted)
    if to == BOOTED or (to is None and is_queued and booted in order):
        return booted
    if to is None or to == PREVIOUS:
        if previous is None:
            menu.odd.refuse_unread(_CHOOSING)
            raise NoRollbackTargetError(
                "choosing what to roll back to: there is no other deployment that can boot",
                hint="`bootc-fast status` lists what is there",
            )
        return previous
    return _find_named(to, survey, menu)


def _is_last_try(menu: BootMenu, booted: VerityDigest) -> bool:
    """Whether what runs is last in the loader's order for its counter only: nobody has queued anything then."""
    entry = choose_entry(menu, booted, prefers_staged=False)
    return entry is not None and entry.tries_left == 0


def _find_named(to: str, survey: Survey, menu: BootMenu) -> VerityDigest:
    found = find_named(to, list_names(survey, menu, menu.own_order), doing=_CHOOSING)
    if found is not None:
        return found
    menu.odd.refuse_unread(_CHOOSING)
    text = to.lower()
    has_state = any(one.digest.startswith(text) for one in survey.deployments) and bool(text)
    if has_state:
        raise NoRollbackTargetError(f"{_CHOOSING}: {text} has no boot entry")
    raise UsageError(
        f"{_CHOOSING}: there is no deployment {to}",
        hint="name a digest, version or image tag that `bootc-fast status` shows, 'previous' or 'booted'",
    )


def _check_target(survey: Survey, menu: BootMenu, target: VerityDigest, *, verify: bool) -> None:
    """Refuse a target that cannot boot."""
    entry = choose_entry(menu, target, prefers_staged=False)
    if entry is None:
        menu.odd.refuse_unread(_CHOOSING)
        raise BootEntryError(f"rolling back to {shorten_digest(target)}: it has no boot entry", hint=OTHER_HINT)
    if target == survey.booted.digest:
        return
    state = survey.find_deployment(target)
    if state is None or not state.has_image or not state.has_etc:
        what = "state directory" if state is None else "etc" if state.has_image else "image"
        raise InvalidStateError(f"rolling back to {shorten_digest(target)}: its {what} is missing", hint=OTHER_HINT)
    if state.unread is not None:
        raise FileSystemError(f"rolling back to {shorten_digest(target)}: {state.unread}", hint=OTHER_HINT)
    if entry.missing and verify:
        what = f"rolling back to {shorten_digest(target)}"
        menu.odd.refuse_unopened(entry, what)
        names = ", ".join(map(escape_bytes, entry.missing))
        message = f"{what}: its boot entry names {names}, which is missing or empty"
        raise BootEntryError(message, hint=f"{OTHER_HINT}; --no-verify takes it all the same")


def choose_ostree_target(survey: OstreeSurvey, to: str | None, *, allow_non_container: bool) -> OstreeDeployment:
    """Choose where a rollback of an ostree host leads. Pure.

    Args:
        survey: The host's deployments.
        to: As for ``rollback``; ``<commit>.<serial>`` or 8 characters or more of it.
        allow_non_container: Also go back to a deployment that no container image was the source of.

    Raises:
        NoRollbackTargetError: There is no other deployment, or it is not container-based.
        UsageError: `to` names no deployment, or several.
    """
    if to == BOOTED or (to is None and survey.rollback_queued):
        return survey.booted
    first = survey.rollback if to in {None, PREVIOUS} else _find_ostree_named(survey, to or "")
    if first is None:
        raise NoRollbackTargetError(
            f"choosing what to roll back to: stateroot {survey.booted.stateroot} has no other deployment",
            hint="`bootc-fast status` lists what is there",
        )
    if first.reference is None and first != survey.booted and not allow_non_container:
        raise NoRollbackTargetError(
            f"rolling back to {first.name}: it did not come from a container image",
            hint="roll back nevertheless with --allow-non-container",
        )
    return first


def _find_ostree_named(survey: OstreeSurvey, to: str) -> OstreeDeployment:
    found = [one for one in survey.order if one.name == to or (len(to) >= MIN_PREFIX_CHARS and one.name.startswith(to))]
    if len(found) > 1:
        raise UsageError(f"choosing what to roll back to: {len(found)} deployments begin with {to}")
    if not found:
        own = [one for one in survey.order if one.stateroot == survey.booted.stateroot]
        found = [one for one in own if to and to in {one.image.version, find_tag(one.reference or "")}]
    if len(found) > 1:
        raise UsageError(
            f"choosing what to roll back to: {len(found)} deployments have the version or tag {to}",
            hint=f"name one by its commit: {', '.join(one.name for one in found)}",
        )
    if not found:
        raise UsageError(
            f"choosing what to roll back to: there is no deployment {to}",
            hint="name a commit that `bootc-fast status` shows, 'previous' or 'booted'",
        )
    if found[0].stateroot != survey.booted.stateroot:
        raise UsageError(f"choosing what to roll back to: {to} belongs to stateroot {found[0].stateroot}")
    return found[0]
