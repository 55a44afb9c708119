"""Whatever is done to a host, and whatever its new deployments do: something intact boots, and every trial ends.

`BOOTC_FAST_EXAMPLES` sets how many sequences are tried. What boots is told by ``loader_emulation``, which shares
nothing with the program; the firmware renames and the power fails on the FAT model.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import loader_emulation as loaders
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_host import LIVE, RandomHost, RandomHostAfterCut
from unit.boot.fat_volume import FatVolume

from bootc_fast.boot.counting.records import CountContext, Counting, CountMethod, CountWish, WantedMethod
from bootc_fast.boot.counting.systemd_boot import SystemdBootCounter
from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.errors import BootcFastError, TrialFailedError
from bootc_fast.flows.rollback_plan import plan_rollback
from bootc_fast.flows.trial_end import plan_trial_end
from bootc_fast.flows.trial_notes import judge_boot
from bootc_fast.trial.states import TrialRecord, TrialState
from bootc_fast.trial.verdict import refuse_failed
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.types import VerityDigest

COUNTED = re.compile(r"(.*)\+(\d+)(?:-(\d+))?\.conf")
WISHES = st.builds(
    CountWish, st.sampled_from([3, 3, 3, 2, 1, 0, 5]), st.sampled_from([WantedMethod.AUTO] * 3 + list(WantedMethod))
)


VERSIONS = st.sampled_from(["9", "10", "43", "44-beta"])


class TrialHost:
    """A host with systemd-boot, its EFI variables, and what it has noted of trials."""

    def __init__(self, boot_type: BootType, info: str) -> None:
        self.host = RandomHost(Loader.SYSTEMD_BOOT, boot_type)
        self.info = info
        self.states: dict[VerityDigest, TrialRecord] = {}

    def cut(self, seed: int) -> None:
        """The power goes within the last command; one of the states that it may leave comes up again."""
        found = list(self.host.crash_states(seed))
        if found:
            self.host = found[seed % len(found)]
            self.host.settle()

    def copy(self) -> TrialHost:
        """The same machine, for a look into its future."""
        twin = object.__new__(TrialHost)
        volume = FatVolume(self.host.volume.model.mount(self.host.volume.model.cache))
        twin.host, twin.info, twin.states = RandomHostAfterCut(self.host, volume, self.host.variables), self.info, {}
        return twin

    def _variables(self) -> LoaderVariables:
        stored = self.host.variables
        return LoaderVariables(
            info=self.info,
            entry_default=stored.get("LoaderEntryDefault"),
            entry_oneshot=stored.get("LoaderEntryOneShot"),
        )

    def _look(self, target: VerityDigest | None = None, order: Sequence[VerityDigest] = ()) -> CountContext:
        host, survey = self.host, self.host.survey()
        menu = read_volumes(
            host.volume, host.volume, loader=host.loader, known=survey.known, variables=self._variables()
        )

        def replan(first: Sequence[VerityDigest], tried: VerityDigest | None) -> MenuPlan:
            wanted = tuple(dict.fromkeys((*first, *order)))
            return plan_menu(menu, order=wanted, staged=target, tried=tried, blessed=host.booted)

        def set_variable(name: str, value: bytes | None) -> None:
            if value is None:
                host.variables.pop(name, None)
            else:
                host.variables[name] = value.decode()
            host.stored.append((len(host.volume.model.log), dict(host.variables)))

        one_shots = {
            digest
            for digest, record in self.states.items()
            if record.state is TrialState.TRIAL and record.method is CountMethod.ONE_SHOT
        }
        return CountContext(
            menu,
            host.volume,
            host.volume,
            host.booted,
            target,
            variables=self._variables(),
            replan=replan if target else None,
            set_variable=set_variable,
            one_shots=frozenset(one_shots),
        )

    def _publish(self, menu: BootMenu, plan: MenuPlan, trial: Counting | None = None) -> None:
        volume, survey = self.host.volume, self.host.survey()
        protected = list_protected(survey, menu)
        publish_volumes(
            volume, volume, menu, plan, set_variable=self.host._set_variable, protected=protected, trial=trial
        )

    def finalize(self, wish: CountWish) -> None:
        """As the flow does: refuse what failed, decide, note a one-shot before it is set, publish, note."""
        host, survey = self.host, self.host.survey()
        host.stored = [(0, dict(host.variables))]
        assert survey.marker is not None
        staged = survey.marker.digest
        menu = self._look().menu
        refuse_failed(self.states, staged, menu, doing="finalizing")
        order = order_after_finalize(menu, staged=staged, booted=host.booted, kept=survey.kept)
        context, counter = self._look(staged, order), SystemdBootCounter()
        plan = plan_menu(context.menu, order=order, staged=staged)
        decision = counter.decide(context, plan, wish)
        trial = Counting(counter, context, decision)
        record = TrialRecord(TrialState.TRIAL, method=decision.method, allowed=decision.tries or None)
        is_good = staged in self.states and self.states[staged].state is TrialState.GOOD
        if decision.method is CountMethod.ONE_SHOT and not is_good:
            self.states[staged] = record
        self._publish(context.menu, decision.plan, trial)
        if not is_good:
            self.states[staged] = record

    def rollback(self) -> None:
        survey, menu = self.host.survey(), self._look().menu
        self.host.stored = [(0, dict(self.host.variables))]
        plan = plan_rollback(survey, menu, states=self.states)
        self._publish(menu, plan)
        self.host.marker = None

    def start(self) -> str:
        """The firmware and the loader: the one-shot goes, the counter is renamed, the program starts."""
        host = self.host
        entry = loaders.boot_next(host.loader, host.files, dict(host.variables))
        host.variables.pop("LoaderEntryOneShot", None)
        found = COUNTED.fullmatch(entry.name)
        host.stored = [(0, dict(host.variables))]
        is_counted = "linux" in entry.values or ("uki" if self.info > "systemd-boot 258" else "efi") in entry.values
        if found is not None and is_counted:
            new = f"{found[1]}+{max(int(found[2]) - 1, 0)}-{int(found[3] or 0) + 1}.conf"
            model = host.volume.model
            model.firmware_rename(model.find(b"loader/entries"), entry.name.encode(), new.encode())
        assert entry.digest is not None
        host.booted, host.marker = type(host.booted)(entry.digest), None
        return entry.digest

    def complete(self, *, is_healthy: bool) -> None:
        """What boot-complete does: the boot partition first, then the notes."""
        context = self._look()
        self.host.stored = [(0, dict(self.host.variables))]
        booted, menu = self.host.booted, context.menu
        trials: dict[VerityDigest, RunningTrial] = {one.digest: one for one in SystemdBootCounter().read(context)}
        over = {one: trial.tries_done or 0 for one, trial in trials.items() if trial.is_given_up and one != booted}
        end = plan_trial_end(menu, booted, trials, over, is_complete=is_healthy)
        if end.order:
            plan = plan_menu(
                menu, order=end.order, staged=None, verify=False, blessed=end.blessed, renews=end.is_restored
            )
            self._publish(menu, replace(plan, removes_staged=False))
        self.states, _failed = judge_boot(self.states, booted, over, is_complete=is_healthy)


def _names(host: RandomHost, raw: bytes) -> bool:
    return host.booted.encode() in raw


class AnyTrial(RuleBasedStateMachine):
    """One host, its updates, and how they behave."""

    @initialize(
        boot_type=st.sampled_from(BootType),
        info=st.sampled_from(["systemd-boot 252.39", "systemd-boot 257.9", "systemd-boot 262"]),
    )
    def install(self, boot_type: BootType, info: str) -> None:
        self.machine = TrialHost(boot_type, info)
        self.machine.complete(is_healthy=True)
        self.machine.host.settle()
        self.tries = 3

    @precondition(lambda self: len(self.machine.host.made) < 6)
    @rule(version=VERSIONS)
    def stage(self, version: str) -> None:
        self.machine.host.stage("fedora", version, self.machine.host.boot_type, shares_kernel=False)

    @rule(wish=WISHES, seed=st.sampled_from([None, None, None, *range(20)]), version=VERSIONS)
    def update(self, wish: CountWish, seed: int | None, version: str) -> None:
        """Staged, perhaps before, and finalized; perhaps cut."""
        if self.machine.host.marker is None and len(self.machine.host.made) < 6:
            self.stage(version)
        if self.machine.host.marker is None:
            return
        self.tries = max(self.tries, wish.tries)
        try:
            self.machine.finalize(wish)
        except BootcFastError:
            self.machine.host.settle()
            return
        if seed is not None:
            self.machine.cut(seed)
            self.machine.host.marker = None
        self.machine.host.settle()

    @rule(seed=st.integers(0, 1 << 16))
    def cut_a_boot(self, seed: int) -> None:
        """The power goes while the firmware renames, or before anything is up."""
        self.machine.start()
        self.machine.cut(seed)

    @rule(fate=st.sampled_from(["good", "unhealthy", "panic"]))
    def boot(self, fate: str) -> None:
        """It comes up well, or unhealthy, or not at all."""
        self.machine.start()
        self.machine.host.settle()
        if fate != "panic":
            self.machine.complete(is_healthy=fate == "good")
            self.machine.host.settle()
            self._is_ended(is_healthy=fate == "good")

    def _is_ended(self, *, is_healthy: bool) -> None:
        """What came up well is counted no more; what failed comes first by no reader's order."""
        host, states = self.machine.host, self.machine.states
        own = [
            name for path, raw in host.files.items() if (name := path.removeprefix(LIVE)) != path and _names(host, raw)
        ]
        assert not is_healthy or [name for name in own if COUNTED.fullmatch(name)] == []
        plain = {re.sub(r"\+\d+(-\d+)?\.conf$", ".conf", path): raw for path, raw in host.files.items()}
        first = next(one.digest for one in loaders.list_menu(host.loader, plain) if one.digest)
        record = states.get(type(host.booted)(first))
        assert first == host.booted or record is None or record.state is not TrialState.FAILED

    @rule(
        wish=WISHES,
        version=VERSIONS,
        fates=st.lists(st.sampled_from(["good", "panic", "unhealthy"]), min_size=1, max_size=5),
    )
    def update_and_boot(self, wish: CountWish, version: str, fates: list[str]) -> None:
        """The usual way of things."""
        self.update(wish, None, version)
        for fate in fates:
            self.boot(fate)

    @rule(seed=st.integers(0, 1 << 16), is_healthy=st.booleans())
    def cut_the_end_of_a_trial(self, seed: int, *, is_healthy: bool) -> None:
        self.machine.start()
        self.machine.host.settle()
        before = dict(self.machine.states)
        self.machine.complete(is_healthy=is_healthy)
        self.machine.cut(seed)
        # What is noted comes last.
        self.machine.states = before

    @rule()
    def rollback(self) -> None:
        with contextlib.suppress(TrialFailedError, BootcFastError):
            self.machine.rollback()
        self.machine.host.settle()

    @precondition(lambda self: self.machine.host.marker is not None)
    @rule()
    def unstage(self) -> None:
        with contextlib.suppress(BootcFastError):
            self.machine.host.unstage(self.machine.host.volume)
        self.machine.host.volume.model.syncfs()
        self.machine.host.settle()

    @rule()
    def somebody_renames_in_place(self) -> None:
        """As systemd-bless-boot does: what runs loses its counter."""
        host = self.machine.host
        for path, raw in host.files.items():
            found = COUNTED.fullmatch(path.removeprefix(LIVE))
            if found is not None and host.booted.encode() in raw:
                model = host.volume.model
                new = f"{found[1]}.conf".encode()
                directory = model.find(b"loader/entries")
                if new not in directory.children:
                    model.rename(directory, path.removeprefix(LIVE).encode(), new)
        host.settle()

    @invariant()
    def something_intact_boots_and_every_trial_ends(self) -> None:
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        digest = machine.host.next_boot()
        assert digest is not None
        assert machine.host.is_intact(digest), "what boots next is damaged"
        record = machine.states.get(type(machine.host.booted)(digest))
        is_failed = record is not None and record.state is TrialState.FAILED
        good = {one for one, known in machine.states.items() if known.state is TrialState.GOOD}
        assert not is_failed or not good, "a failed deployment is the default"
        shown = {one.digest for one in machine.host.menu()}
        assert machine.host.booted in shown, "what runs has lost its entry"
        # Nothing comes up any more: within the tries and one boot more it is what nobody counts.
        future = machine.copy()
        booted = [future.start() for _ in range(self.tries + 2)]
        last = loaders.boot_next(future.host.loader, future.host.files, dict(future.host.variables))
        found = COUNTED.fullmatch(last.name)
        uncounted = [one for one in future.host.menu() if COUNTED.fullmatch(one.name) is None and one.digest]
        assert found is None or not uncounted, (booted, last.name)


AnyTrial.TestCase.settings = settings(
    max_examples=int(os.environ.get("BOOTC_FAST_EXAMPLES", "40")),
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAnyTrial = AnyTrial.TestCase
