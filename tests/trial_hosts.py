"""Hosts whose updates are on trial, on the FAT model: with systemd-boot, whose rule is written apart, and with GRUB.

What they do at a finalize, a rollback and the end of a boot is what the flows do, without their files in /sysroot.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import loader_emulation as loaders
from random_host import LIVE, RandomHost, RandomHostAfterCut
from unit.boot.counting.grub_machine import STATIC, GrubMachine
from unit.boot.fat_volume import FatVolume

from bootc_fast.boot.counting.records import CountContext, Counting, CountMethod, CountWish
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.grub_trial import TRIAL, VARIABLES
from bootc_fast.boot.loaders.grubenv import change_grubenv, parse_grubenv
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.composefs.boot_files import list_protected
from bootc_fast.flows.rollback_plan import plan_rollback
from bootc_fast.flows.trial_end import plan_trial_end
from bootc_fast.flows.trial_notes import judge_boot
from bootc_fast.trial.states import TrialRecord, TrialState
from bootc_fast.trial.verdict import judge_deployment, refuse_failed
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.types import VerityDigest

COUNTED = re.compile(r"(.*)\+(\d+)(?:-(\d+))?\.conf")


class TrialHost:
    """A host with systemd-boot, its EFI variables, and what it has noted of trials."""

    loader = Loader.SYSTEMD_BOOT
    counter = counter_of(record_of(loader))

    def __init__(self, boot_type: BootType, info: str = "") -> None:
        self.host = RandomHost(self.loader, boot_type)
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
        twin = object.__new__(type(self))
        volume = FatVolume(self.host.volume.model.mount(self.host.volume.model.cache))
        vars(twin).update(vars(self))
        twin.host, twin.states = RandomHostAfterCut(self.host, volume, self.host.variables), {}
        return twin

    def next_boot(self) -> str | None:
        """The deployment of ours that boots next."""
        return self.host.next_boot()

    def is_trial_over(self, last: str | None) -> bool:
        """Whether what booted last, of many boots that came to nothing, is no trial that goes on for ever."""
        del last
        entry = loaders.boot_next(self.host.loader, self.host.files, dict(self.host.variables))
        uncounted = [one for one in self.host.menu() if COUNTED.fullmatch(one.name) is None and one.digest]
        return COUNTED.fullmatch(entry.name) is None or not uncounted

    def list_counts(self) -> list[str]:
        """What counts boots of what runs."""
        host = self.host
        own = [path.removeprefix(LIVE) for path, raw in host.files.items() if host.booted.encode() in raw]
        return [name for name in own if COUNTED.fullmatch(name)]

    def _variables(self) -> LoaderVariables:
        stored = self.host.variables
        return LoaderVariables(
            info=self.info,
            entry_default=stored.get("LoaderEntryDefault"),
            entry_oneshot=stored.get("LoaderEntryOneShot"),
        )

    def _look(
        self,
        target: VerityDigest | None = None,
        order: Sequence[VerityDigest] = (),
        staged: VerityDigest | None = None,
    ) -> CountContext:
        host, survey = self.host, self.host.survey()
        menu = read_volumes(
            host.volume, host.volume, loader=host.loader, known=survey.known, variables=self._variables()
        )

        def replan(first: Sequence[VerityDigest], tried: VerityDigest | None) -> MenuPlan:
            wanted = tuple(dict.fromkeys((*first, *order)))
            return plan_menu(menu, order=wanted, staged=staged, tried=tried, blessed=host.booted)

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
            set_variable=set_variable if self.loader is Loader.SYSTEMD_BOOT else None,
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
        context = self._look(staged, order, staged)
        plan = plan_menu(context.menu, order=order, staged=staged)
        is_good = staged in self.states and self.states[staged].state is TrialState.GOOD
        self._begin(context, plan, CountWish(0) if is_good or staged == host.booted else wish)

    def _begin(self, context: CountContext, plan: MenuPlan, wish: CountWish) -> None:
        """Publish a new default, counted."""
        target = plan.order[0]
        decision = self.counter.decide(context, plan, wish)
        trial = Counting(self.counter, context, decision)
        record = TrialRecord(TrialState.TRIAL, method=decision.method, allowed=decision.tries or None)
        before = self.states.get(target)
        is_good = before is not None and before.state is TrialState.GOOD
        is_noted = target != self.host.booted and not is_good
        if decision.method is CountMethod.ONE_SHOT and is_noted:
            self.states[target] = record
        self._publish(context.menu, decision.plan, trial)
        if is_noted:
            self.states[target] = record

    def rollback(self, *, force: bool = False) -> None:
        """As the flow does: what is not known to be good is counted."""
        survey, menu = self.host.survey(), self._look().menu
        self.host.stored = [(0, dict(self.host.variables))]
        plan = plan_rollback(survey, menu, states=self.states, force=force)
        target = plan.order[0]
        judged = judge_deployment(self.states, target, menu)
        is_counted = judged is not None and judged.state is not TrialState.GOOD and target != self.host.booted
        self._begin(self._look(target, plan.order), plan, CountWish(3 if is_counted else 0))
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
        trials: dict[VerityDigest, RunningTrial] = {one.digest: one for one in self.counter.read(context)}
        over = {one: trial.tries_done or 0 for one, trial in trials.items() if trial.is_given_up and one != booted}
        end = plan_trial_end(menu, booted, trials, over, is_complete=is_healthy)
        if end.order:
            plan = plan_menu(
                menu, order=end.order, staged=None, verify=False, blessed=end.blessed, renews=end.is_restored
            )
            self._publish(menu, replace(plan, removes_staged=False))
        if end.clears or (is_healthy and self.counter.has_leftovers(context)):
            self.counter.end(context)
        self.states, _failed = judge_boot(self.states, booted, over, is_complete=is_healthy)


class GrubTrialHost(TrialHost):
    """A host with GRUB: it runs the host's own files, ours among them, and writes its environment block."""

    loader = Loader.GRUB
    counter = counter_of(record_of(loader))

    def __init__(self, boot_type: BootType, rule: int, custom: bytes) -> None:
        super().__init__(boot_type)
        self.rule = record_of(self.loader).rules[rule]
        self.host.write("grub2/grub.cfg", STATIC)
        if custom:
            self.host.write("grub2/custom.cfg", custom)
        self.host.settle()

    def _boot(self) -> str | None:
        entry = GrubMachine(self.host.volume, self.rule, set(self.host.made)).boot()
        return None if entry is None else entry.digest

    def start(self) -> str:
        """GRUB counts, and starts what it has chosen; None of it asks us."""
        self.host.stored = [(0, {})]
        digest = self._boot()
        assert digest is not None, "nothing of ours boots"
        self.host.booted, self.host.marker = type(self.host.booted)(digest), None
        return digest

    def soft_reboot(self) -> None:
        """Go into what boots next without GRUB: its own start-up counts."""
        digest = self.next_boot()
        assert digest is not None
        self.host.booted, self.host.marker = type(self.host.booted)(digest), None
        self.host.stored = [(0, {})]
        self.counter.count_start(self._look())

    def next_boot(self) -> str | None:
        return self.copy()._boot()

    def change_environment(self, values: dict[bytes, bytes | None], *, anew: bool) -> None:
        """As ``grub2-editenv`` does; `anew` is its ``create``."""
        raw = None if anew else self.host.files.get("grub2/grubenv")
        self.host.write("grub2/grubenv", change_grubenv(raw, values))

    def _variables_of_trial(self) -> dict[bytes, bytes]:
        return {
            key: value
            for key, value in parse_grubenv(self.host.files.get("grub2/grubenv", b"")).items()
            if key in VARIABLES
        }

    def is_trial_over(self, last: str | None) -> bool:
        tried = self._variables_of_trial().get(TRIAL)
        names = {
            one.digest: one.values.get("title", one.name.removesuffix(".conf")).encode() for one in self.host.menu()
        }
        names |= {one.digest: one.name.removesuffix(".conf").encode() for one in self.host.menu() if "." in one.name}
        return tried is None or names.get(last) != tried.replace(b">>", b">")

    def list_counts(self) -> list[str]:
        return [key.decode() for key in self._variables_of_trial()]
