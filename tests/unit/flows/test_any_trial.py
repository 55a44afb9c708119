"""Whatever is done to a host, and whatever its new deployments do: something intact boots, and every trial ends.

`BOOTC_FAST_EXAMPLES` sets how many sequences are tried. What boots is told by ``loader_emulation``, which shares
nothing with the program, and under GRUB by an interpreter of its language that runs the host's files, ours among them;
the firmware and GRUB write, and the power fails, on the FAT model.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

import loader_emulation as loaders
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_host import LIVE
from trial_hosts import COUNTED, GrubTrialHost, TrialHost

from bootc_fast.boot.counting.records import CountWish, WantedMethod
from bootc_fast.boot.loaders.grub_trial import VARIABLES
from bootc_fast.errors import BootcFastError
from bootc_fast.trial.states import TrialState
from bootc_fast.types import BootType

WISHES = st.builds(
    CountWish, st.sampled_from([3, 3, 3, 2, 1, 0, 5]), st.sampled_from([WantedMethod.AUTO] * 3 + list(WantedMethod))
)


VERSIONS = st.sampled_from(["9", "10", "43", "44-beta"])


class _AnyTrial(RuleBasedStateMachine):
    """One host, its updates, and how they behave."""

    machine: Any

    def _install(self, machine: TrialHost) -> None:
        self.machine = machine
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
        assert not is_healthy or self.machine.list_counts() == []
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

    @rule(force=st.sampled_from([False, False, True]))
    def rollback(self, *, force: bool) -> None:
        with contextlib.suppress(BootcFastError):
            self.machine.rollback(force=force)
        self.machine.host.settle()

    @precondition(lambda self: self.machine.host.marker is not None)
    @rule()
    def unstage(self) -> None:
        with contextlib.suppress(BootcFastError):
            self.machine.host.unstage(self.machine.host.volume)
        self.machine.host.volume.model.syncfs()
        self.machine.host.settle()

    @invariant()
    def something_intact_boots_and_every_trial_ends(self) -> None:
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        digest = machine.next_boot()
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
        assert future.is_trial_over(booted[-1]), booted


class AnyTrial(_AnyTrial):
    """With systemd-boot."""

    machine: TrialHost

    @initialize(
        boot_type=st.sampled_from(BootType),
        info=st.sampled_from(["systemd-boot 252.39", "systemd-boot 257.9", "systemd-boot 262"]),
    )
    def install(self, boot_type: BootType, info: str) -> None:
        self._install(TrialHost(boot_type, info))

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


_VALUES = st.dictionaries(
    st.sampled_from([b"saved_entry", b"kernelopts", b"boot_success", *VARIABLES]),
    st.sampled_from([None, b"", b"0", b"1", b"-1", b"x", b"nothing of the kind"]),
    max_size=2,
)
_ADMINS = st.sampled_from([b"", b"# an admin's\nset timeout=5", b"set default=0\n"])


class AnyGrubTrial(_AnyTrial):
    """With GRUB: Fedora's order of entries, or upstream's."""

    machine: GrubTrialHost

    @initialize(boot_type=st.sampled_from(BootType), rule=st.sampled_from([0, 1]), custom=_ADMINS)
    def install(self, boot_type: BootType, rule: int, custom: bytes) -> None:
        self._install(GrubTrialHost(boot_type, rule, custom))

    @rule(values=_VALUES, anew=st.sampled_from([False, False, False, True]))
    def somebody_edits_the_environment(self, values: dict[bytes, bytes | None], *, anew: bool) -> None:
        self.machine.change_environment(values, anew=anew)
        self.machine.host.settle()

    @rule(number=st.integers(0, 3))
    def somebody_chooses_for_one_boot(self, number: int) -> None:
        """As ``grub2-reboot`` does: by name, by place, or what is not there."""
        names = [one.values.get("title", one.name.removesuffix(".conf")) for one in self.machine.host.menu()]
        name = names[number] if number < len(names) else "7"
        self.machine.change_environment({b"next_entry": name.encode()}, anew=False)
        self.machine.host.settle()

    @rule(fate=st.sampled_from(["good", "unhealthy", "nothing"]))
    def soft_reboot(self, fate: str) -> None:
        """What boots next is entered without GRUB."""
        self.machine.soft_reboot()
        self.machine.host.settle()
        if fate != "nothing":
            self.machine.complete(is_healthy=fate == "good")
            self.machine.host.settle()
            self._is_ended(is_healthy=fate == "good")


_SETTINGS = settings(
    max_examples=int(os.environ.get("BOOTC_FAST_EXAMPLES", "40")),
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
AnyTrial.TestCase.settings = AnyGrubTrial.TestCase.settings = _SETTINGS
TestAnyTrial = AnyTrial.TestCase
TestAnyGrubTrial = AnyGrubTrial.TestCase
