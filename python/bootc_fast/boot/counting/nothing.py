"""A loader by which nobody can count: it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.counting.records import Decision

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import CountContext, CountWish, RunningTrial
    from bootc_fast.boot.entries.plan import MenuPlan


class NoCounter:
    """``Counter`` of a loader that cannot count."""

    def decide(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision:
        """Say so, where somebody wants it."""
        return Decision(plan, reason=f"{context.menu.rule.name} cannot" if wish.tries else "")

    def begin(self, context: CountContext, decision: Decision) -> list[str]:
        """Nothing is begun."""
        del context, decision
        return []

    def take_back(self, context: CountContext, decision: Decision) -> list[str]:
        """Nothing was begun."""
        del context, decision
        return []

    def arm(self, context: CountContext, decision: Decision) -> list[str]:
        """Nothing was begun."""
        del context, decision
        return []

    def read(self, context: CountContext) -> tuple[RunningTrial, ...]:
        """Nothing is running."""
        del context
        return ()

    def count_start(self, context: CountContext) -> list[str]:
        """Nothing is running."""
        del context
        return []

    def has_leftovers(self, context: CountContext) -> bool:
        """There is nothing beside the entries."""
        del context
        return False

    def end(self, context: CountContext) -> list[str]:
        """Nothing is there."""
        del context
        return []
