"""How a flow counts the boots of what it makes the default: the policy, the loader's counting, and what was noted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.area.real import RealVolume
from bootc_fast.boot.counting.records import CountContext, Counting, CountMethod, CountWish, Decision
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.efi.firmware import write_loader_variable
from bootc_fast.errors import BootcFastError, BootEntryError
from bootc_fast.records import dataclass, replace
from bootc_fast.text import describe_error, shorten_digest
from bootc_fast.trial.states import TrialState
from bootc_fast.trial.verdict import judge_deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bootc_fast.boot.area.directory import BootVolume
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.trial.states import TrialRecord
    from bootc_fast.types import VerityDigest

_POLICY = "/etc/bootc-fast/trial.toml"


@dataclass(frozen=True, slots=True)
class BootTrial:
    """How the new default is counted, and what begins that: what ``publish_menu`` takes as `trial`.

    Attributes:
        counting: The loader's counting.
        decision: What was decided; its plan is the one to publish.
        notes: What is to be said of it, in words.
        host: Where it is noted, with a writable /sysroot.
        survey: Its deployments.
        target: What is tried.
    """

    counting: Counting
    decision: Decision
    notes: tuple[str, ...]
    host: Host
    survey: Survey
    target: VerityDigest

    def begin(self) -> list[str]:
        """Before the new set is live."""
        return self.counting.begin()

    def take_back(self) -> list[str]:
        """The publication failed."""
        return self.counting.take_back()

    def arm(self) -> list[str]:
        """The new set is in force.

        A trial by one-shot leaves no trace on the boot partition: it is noted before it can begin.
        """
        warnings: list[str] = []
        if self.decision.method is CountMethod.ONE_SHOT:
            try:
                warnings += self.note()
            except (BootcFastError, OSError) as error:
                return [f"the new deployment is not tried, since that cannot be noted: {describe_error(error)}"]
        return [*warnings, *self.counting.arm()]

    def note(self) -> tuple[str, ...]:
        """Note that the deployment is on trial; raises FileSystemError."""
        from bootc_fast.flows.trial_notes import note_finalized

        method, tries = self.decision.method, self.decision.tries
        return note_finalized(self.host, self.survey, self.target, method=method, tries=tries)


def make_count_context(
    host: Host,
    survey: Survey,
    boot: BootSnapshot,
    states: Mapping[VerityDigest, TrialRecord],
    *,
    target: VerityDigest | None = None,
    replan: Callable[[Sequence[VerityDigest], VerityDigest | None], MenuPlan] | None = None,
) -> CountContext:
    """Collect what a loader's counting looks at.

    Args:
        host: Where.
        survey: Its deployments.
        boot: Its boot directories and entries.
        states: What was noted of trials.
        target: What is to be tried.
        replan: As ``CountContext`` has it.
    """
    area = boot.area

    def set_variable(name: str, value: bytes | None) -> None:
        try:
            write_loader_variable(host, name, None if value is None else value.decode("utf-8", "replace"))
        except BootEntryError as error:
            raise OSError(str(error)) from error

    def open_volume(fd: int | None) -> BootVolume | None:
        return None if fd is None else RealVolume(fd)

    one_shots = (
        digest
        for digest, record in states.items()
        if record.state is TrialState.TRIAL and record.method is CountMethod.ONE_SHOT
    )
    return CountContext(
        boot.menu,
        RealVolume(area.boot_fd),
        open_volume(area.esp_fd),
        survey.booted.digest,
        target,
        open_volume(area.loader_fd),
        boot.variables,
        replan,
        set_variable,
        frozenset(one_shots),
        is_live=host.is_live,
    )


def count_nothing(survey: Survey, boot: BootSnapshot, plan: MenuPlan) -> BootTrial:
    """Have a new default not counted, and whatever was counted until now no more; blocks, and writes nothing yet.

    Args:
        survey: The deployments.
        boot: Its boot directories and entries.
        plan: What is to be published.
    """
    target, counter = plan.order[0], counter_of(boot.menu.record)
    context = make_count_context(survey.host, survey, boot, {}, target=target)
    decision = counter.decide(context, plan, CountWish(0))
    return BootTrial(Counting(counter, context, decision), decision, (), survey.host, survey, target)


def decide_rollback(
    survey: Survey,
    boot: BootSnapshot,
    plan: MenuPlan,
    states: Mapping[VerityDigest, TrialRecord],
    *,
    verify: bool = True,
) -> BootTrial:
    """Decide how the boots of what a rollback leads to are counted; blocks, and writes nothing.

    What is known not to have come up well yet is tried like an update: what failed and is insisted on, and what was
    taken back before it was tried. What was good is counted by nobody, nor is what was there before anybody noted
    anything; whatever was counted until now ends.

    Args:
        survey: The deployments.
        boot: Its boot directories and entries.
        plan: What is to be published; its first deployment is the new default.
        states: What was noted of trials.
        verify: As `plan` was made.
    """
    judged = judge_deployment(states, plan.order[0], boot.menu)
    if judged is None or judged.state is TrialState.GOOD:
        return count_nothing(survey, boot, plan)
    return decide_trial(survey, boot, plan, plan.order, states, staged=None, verify=verify)


def carry_on(survey: Survey, boot: BootSnapshot, plan: MenuPlan) -> Counting | None:
    """Return what takes a count along that is kept beside the entries, by names which a publication changes; blocks.

    None where nothing of the kind is under way for what stays the default.
    """
    context = make_count_context(survey.host, survey, boot, {}, target=plan.order[0])
    counter = counter_of(boot.menu.record)
    for one in counter.read(context):
        if one.digest == plan.order[0] and one.method is CountMethod.GRUBENV and one.tries_left:
            return Counting(counter, context, counter.decide(context, plan, CountWish(one.tries_left)))
    return None


def decide_trial(
    survey: Survey,
    boot: BootSnapshot,
    plan: MenuPlan,
    order: Sequence[VerityDigest],
    states: Mapping[VerityDigest, TrialRecord],
    *,
    staged: VerityDigest | None,
    verify: bool = True,
) -> BootTrial:
    """Decide how the boots of a new default are counted that was never good; blocks, and writes nothing.

    Args:
        survey: The deployments; its host has the policy files, and gets the note of the trial.
        boot: Its boot directories and entries.
        plan: What is to be published; its first deployment is the new default.
        order: The deployments that were wanted.
        states: What was noted of trials.
        staged: As `plan` was made: the new default where a finalize makes it that, None for a rollback.
        verify: As `plan` was made.

    Returns:
        The trial; its decision has the plan to publish.

    Raises:
        BootEntryError: It is a finalize, whose policy requires counting, and it cannot be had. A rollback to what
            failed is an admin's, who insisted: it is told that nobody counts.
    """
    from bootc_fast.boot.entries.plan import plan_menu
    from bootc_fast.trial.trial_policy import read_trial_policy

    target, host = plan.order[0], survey.host
    record = states.get(target)
    if target == survey.booted.digest or (record is not None and record.state is TrialState.GOOD):
        return count_nothing(survey, boot, plan)
    policy, warnings = read_trial_policy(host)

    def replan(first: Sequence[VerityDigest], tried: VerityDigest | None) -> MenuPlan:
        wanted, booted = tuple(dict.fromkeys((*first, *order))), survey.booted.digest
        planned = plan_menu(boot.menu, order=wanted, staged=staged, verify=verify, tried=tried, blessed=booted)
        return replace(planned, removes_staged=plan.removes_staged)

    context = make_count_context(host, survey, boot, states, target=target, replan=replan)
    counter = counter_of(boot.menu.record)
    decision = counter.decide(context, plan, policy.wish)
    if decision.reason:
        said = f"this host cannot count boots: {decision.reason}"
        if policy.require_counting and staged is not None:
            raise BootEntryError(
                f"finalizing {shorten_digest(target)}: {said}",
                hint=f"`require-counting = false` in {_POLICY} takes the update without counting its boots",
            )
        warnings = (*warnings, said)
    return BootTrial(Counting(counter, context, decision), decision, (*warnings, *decision.notes), host, survey, target)
