"""Which deployments the set of boot entries has, and in which order, after a finalize or a rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.keep import KeepPolicy
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.types import VerityDigest


def order_after_finalize(
    menu: BootMenu,
    *,
    staged: VerityDigest,
    booted: VerityDigest,
    kept: Collection[VerityDigest],
    policy: KeepPolicy = KeepPolicy(),  # noqa: B008 - frozen
) -> tuple[VerityDigest, ...]:
    """Return the order that a finalize wants: the new one, the booted one, pinned ones, then what the policy adds.

    Args:
        menu: What is there.
        staged: The marker's deployment.
        booted: The running deployment.
        kept: Deployments that have both a state directory and an image.
        policy: How many stay; those that are first in the loader's order.

    Source:
        Spec boot.md, "Reading"; bootc's own finalize leaves two, and its rollback wants no more.
    """
    others = [digest for digest in menu.own_order if digest in kept]
    pinned = [digest for digest in others if digest in policy.pinned]
    first = tuple(dict.fromkeys((staged, booted, *pinned)))
    room = max(policy.keep - len({staged, booted}), 0)
    return (*first, *[digest for digest in others if digest not in first][:room])


def find_dropped(menu: BootMenu, order: Collection[VerityDigest]) -> tuple[VerityDigest, ...]:
    """Return our deployments that have an entry now and none in `order`, in the loader's order."""
    return tuple(digest for digest in menu.own_order if digest not in order)


def describe_dropped(dropped: Sequence[VerityDigest], policy: KeepPolicy) -> tuple[str, ...]:
    """Say which older deployments go, where it is more than the one that every update replaces."""
    if len(dropped) <= 1:
        return ()
    names = ", ".join(map(shorten_digest, dropped))
    return (f"deployments {names} lose their boot entries and boot files: {policy.keep} are kept",)


def order_after_rollback(
    menu: BootMenu, *, first: VerityDigest, kept: Collection[VerityDigest]
) -> tuple[VerityDigest, ...]:
    """Return the order that a rollback wants: `first`, then the others as they are.

    Args:
        menu: What is there.
        first: The deployment that is to boot next.
        kept: Deployments that have both a state directory and an image, and the booted one.
    """
    return tuple(dict.fromkeys((first, *(digest for digest in menu.own_order if digest in kept))))
