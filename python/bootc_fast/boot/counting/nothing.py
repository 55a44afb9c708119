"""A loader by which nobody can count: it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.counting.records import Counter, Decision

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import CountContext, CountWish
    from bootc_fast.boot.entries.plan import MenuPlan


class NoCounter(Counter):
    """A loader that cannot count; there is nothing to begin, to read or to end."""

    def decide(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision:
        """Say so, where somebody wants it."""
        return Decision(plan, reason=f"{context.menu.rule.name} cannot" if wish.tries else "")
