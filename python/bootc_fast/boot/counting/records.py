"""How a trial's boots are counted: what is wanted, what was decided, what is running; one protocol for every loader.

A trial begins inside of the publication that makes the new deployment the default, so that no cut leaves a default that
nobody counts and that was to be counted::

    decide   before the first write, from what was read: a plan that counts, or why this host cannot count
    begin    before the new set is live     GRUB: its variables and custom.cfg. A failure refuses the publication
    arm      when the new set is in force   systemd-boot by one-shot: ``LoaderEntryOneShot``
    take_back  where the publication failed: what `begin` did is undone
    read     at any time: which trials are running, and on which the loader gave up
    count_start  by what runs, at its start: a try that went around the loader is counted
    end      after the entries without counters are published: what is not in their names is cleared

systemd-boot by counter needs none but `decide`, `read`: the counter is in the new default's name, and so a part of the
published set; whatever takes it away is a publication, too. `Counter` is what a loader's file has; `table.counter_of`
finds it.

Source:
    Spec trial.md, "Counting".
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.override import LoaderVariables
    from bootc_fast.types import VerityDigest

DEFAULT_TRIES = 3


class CountMethod(enum.StrEnum):
    """Who counts, and where."""

    COUNTER = "counter"
    ONE_SHOT = "one-shot"
    GRUBENV = "grubenv"


class WantedMethod(enum.StrEnum):
    """What the policy wants of a host that has a choice."""

    AUTO = "auto"
    COUNTER = "counter"
    ONE_SHOT = "one-shot"


@dataclass(frozen=True, slots=True)
class CountWish:
    """What the policy wants.

    Attributes:
        tries: How often a new deployment is tried; 0 counts nothing.
        method: How, where there is a choice.
        done: How often it was tried already, where a trial goes on.
    """

    tries: int = DEFAULT_TRIES
    method: WantedMethod = WantedMethod.AUTO
    done: int = 0


@dataclass(frozen=True, slots=True)
class CountContext:
    """What a loader's counting looks at, and writes to.

    Attributes:
        menu: The boot entries, as they were read.
        boot: The boot directory.
        esp: The ESP; None where there is none.
        booted: The deployment that runs.
        target: The deployment that is to be tried.
        settings: The loader's own settings; None where they are in the boot directory.
        variables: What loader and firmware say; None where nothing is known.
        replan: Plans the same set with these deployments first, what runs without counters, and the second argument
            being what a one-shot tries; None where only what is there is read.
        set_variable: Sets an EFI variable of the loader's, None removes it; raises OSError. None: there are none.
        one_shots: Deployments that are on trial by one-shot, as it was noted.
        is_live: It is this machine's own boot partition, so that what it lies on matters; a host in a directory lies on
            anything.
    """

    menu: BootMenu
    boot: BootVolume
    esp: BootVolume | None
    booted: VerityDigest
    target: VerityDigest | None = None
    settings: BootVolume | None = None
    variables: LoaderVariables | None = None
    replan: Callable[[Sequence[VerityDigest], VerityDigest | None], MenuPlan] | None = None
    set_variable: Callable[[str, bytes | None], None] | None = None
    one_shots: frozenset[VerityDigest] = frozenset()
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """How the new default is to be counted.

    Attributes:
        plan: What is to be published; it has in it what the method needs there.
        method: None where it is not counted.
        tries: How often it is tried; 0 where it is not counted.
        reason: Why this host cannot count, in words; empty where it does, or nobody asked.
        notes: What else is to be said: of a method that would have been better, what it cannot do.
        is_armed: What `arm` would do is done already, by an earlier run.
    """

    plan: MenuPlan
    method: CountMethod | None = None
    tries: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()
    is_armed: bool = True

    @property
    def is_noop(self) -> bool:
        """Nothing would be written."""
        return self.plan.is_noop and self.is_armed


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial as the loader has it.

    Attributes:
        digest: Which deployment.
        method: How it is counted.
        tries_left: How often the loader will start it yet; None where nobody knows.
        tries_done: How often it has; None where nobody knows.
        is_given_up: The loader starts it no more.
    """

    digest: VerityDigest
    method: CountMethod
    tries_left: int | None = None
    tries_done: int | None = None
    is_given_up: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """A fallback entry, in a file that nobody writes while the entries are replaced.

    Attributes:
        reason: Why there can be none, in words; empty where there can.
        write: Makes it as it is wanted, and raises OSError with the old file in place; None: it is so already.
    """

    reason: str = ""
    write: Callable[[], None] | None = None


class Counter(Protocol):
    """How one loader counts. Everything here blocks and runs in a worker thread.

    What a loader's file does not have is as here: nothing beside the entries counts, so that there is nothing to do.
    """

    @abstractmethod
    def decide(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> Decision:
        """Decide how the plan's default is counted; writes nothing and never raises for what cannot be had."""
        ...

    def begin(self, context: CountContext, decision: Decision) -> list[str]:
        """Write what has to be there before the new set is live; returns warnings.

        Raises:
            OSError, BootEntryError: It could not be written; what it has written is taken back by `take_back`.
        """
        del context, decision
        return []

    def take_back(self, context: CountContext, decision: Decision) -> list[str]:
        """Undo `begin`, whole or not; returns what failed, in words."""
        del context, decision
        return []

    def arm(self, context: CountContext, decision: Decision) -> list[str]:
        """Do what only makes sense once the new set is in force; returns warnings."""
        del context, decision
        return []

    def read(self, context: CountContext) -> tuple[RunningTrial, ...]:
        """Tell which trials are running, and which are given up."""
        del context
        return ()

    def count_start(self, context: CountContext) -> list[str]:
        """Count a start of what runs that the loader has not counted; returns warnings.

        Called once at a start. What is counted in names is not: that is a publication.
        """
        del context
        return []

    def has_leftovers(self, context: CountContext) -> bool:
        """Say whether something counts beside the entries of which no entry is there: `end` clears it."""
        del context
        return False

    def end(self, context: CountContext) -> list[str]:
        """Clear what is not in entries' names; returns warnings. Nothing happens where nothing is there."""
        del context
        return []

    def plan_fallback(self, context: CountContext, *, is_wanted: bool) -> Fallback:
        """Tell what a fallback entry for what runs needs, or what has to go where none is wanted; writes nothing.

        Raises:
            OSError: It cannot be told.
        """
        del is_wanted
        return Fallback(f"{context.menu.rule.name} reads no second place for an entry that costs no space")


@dataclass(frozen=True, slots=True)
class Counting:
    """A decision with the loader's counter and what it works on: what a publication calls."""

    counter: Counter
    context: CountContext
    decision: Decision

    def begin(self) -> list[str]:
        """Before the new set is live."""
        return self.counter.begin(self.context, self.decision)

    def take_back(self) -> list[str]:
        """The publication failed."""
        return self.counter.take_back(self.context, self.decision)

    def arm(self) -> list[str]:
        """The new set is in force."""
        return self.counter.arm(self.context, self.decision)
