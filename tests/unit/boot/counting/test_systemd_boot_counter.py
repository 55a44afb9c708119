"""systemd-boot's counting: what is decided, what the firmware's renames make of it, and what any cut leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.scenarios import KNOWN, A, B, Scenario, find_boots, judge, make_scenarios, uki_text

from bootc_fast.boot.counting.records import CountContext, Counting, CountMethod, CountWish, Decision, WantedMethod
from bootc_fast.boot.counting.systemd_boot import SystemdBootCounter, read_program_info
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.efi.firmware import LoaderVariables
from bootc_fast.boot.entries.deployment_order import order_after_finalize
from bootc_fast.boot.entries.menu import read_volumes
from bootc_fast.boot.entries.plan import plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.errors import BootEntryError
from bootc_fast.types import Loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.entries.plan import MenuPlan
    from bootc_fast.boot.loaders.override import OverrideKind
    from bootc_fast.types import VerityDigest

SCENARIOS = {scenario.name: scenario for scenario in make_scenarios()}
UPDATE = SCENARIOS["systemd-boot BLS update"]
UKI = SCENARIOS["systemd-boot UKI update, old staged names"]
ENTRIES = b"/loader/entries"


@dataclass
class Machine:
    """One host: its boot partition, its EFI variables, and a finalize of B where A runs."""

    scenario: Scenario
    volume: FatVolume
    info: str | None = "systemd-boot 257.9"
    stored: dict[str, str] = field(default_factory=dict)
    has_variables: bool = True

    @property
    def variables(self) -> LoaderVariables:
        return LoaderVariables(
            info=self.info,
            entry_default=self.stored.get("LoaderEntryDefault"),
            entry_oneshot=self.stored.get("LoaderEntryOneShot"),
            entry_preferred=self.stored.get("LoaderEntryPreferred"),
            features=1 << 19,
        )

    def _set(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.stored.pop(name, None)
        else:
            self.stored[name] = value.decode()

    def _move(self, kind: OverrideKind, value: bytes) -> None:
        self._set(kind.value, value)

    def look(self, *, order: Sequence[VerityDigest] | None = None) -> tuple[CountContext, MenuPlan]:
        menu = read_volumes(self.volume, self.volume, loader=Loader.SYSTEMD_BOOT, known=KNOWN, variables=self.variables)
        wanted = order or order_after_finalize(menu, staged=B, booted=A, kept=KNOWN)
        staged = B if menu.staged.is_present else None
        context = CountContext(
            menu,
            self.volume,
            self.volume,
            booted=A,
            target=B,
            variables=self.variables,
            replan=lambda first, tried: plan_menu(
                menu, order=tuple(dict.fromkeys((*first, *wanted))), staged=staged, tried=tried, blessed=A
            ),
            set_variable=self._set if self.has_variables else None,
            one_shots=frozenset({B}),
        )
        return context, plan_menu(menu, order=wanted, staged=staged)

    def decide(self, tries: int = 3, method: WantedMethod = WantedMethod.AUTO) -> Decision:
        return SystemdBootCounter().decide(*self.look(), CountWish(tries, method))

    def publish(self, tries: int = 3, method: WantedMethod = WantedMethod.AUTO) -> Decision:
        context, plan = self.look()
        counter = SystemdBootCounter()
        decision = counter.decide(context, plan, CountWish(tries, method))
        trial = Counting(counter, context, decision)
        publish_volumes(self.volume, self.volume, context.menu, decision.plan, set_variable=self._move, trial=trial)
        return decision

    def names(self) -> list[str]:
        return sorted(name.decode() for name in self.volume.model.find(ENTRIES).children)

    def boot(self) -> VerityDigest | None:
        """The loader takes its first entry of ours, or what an override names, and counts."""
        context, _plan = self.look(order=(A,))
        self.stored.pop("LoaderEntryOneShot", None)
        entry = context.menu.default
        assert entry is not None
        if entry.tries_left is not None:
            stem = entry.file_name.rpartition(b"+")[0]
            new = b"%s+%d-%d.conf" % (stem, max(entry.tries_left - 1, 0), (entry.tries_done or 0) + 1)
            self.volume.model.firmware_rename(self.volume.model.find(ENTRIES), entry.file_name, new)
        return entry.digest


def make_machine(scenario: Scenario = UPDATE, **options: object) -> Machine:
    volume = FatVolume(FatModel())
    scenario.install(volume)
    volume.model.start()
    return Machine(scenario, volume, **options)  # type: ignore[arg-type]


def _key_of(decision: Decision) -> set[bytes]:
    return {line.split(b" ")[0] for line in decision.plan.default.raw.splitlines()} & {b"linux", b"efi", b"uki"}


@pytest.mark.parametrize(
    ("info", "staged", "published"),
    [
        ("systemd-boot 252.39-1~deb12u1", b"uki", b"efi"),
        ("systemd-boot 255", b"efi", b"efi"),
        ("systemd-boot 257.9", b"uki", b"efi"),
        ("systemd-boot 258.1", b"efi", b"uki"),
        ("systemd-boot 259", b"uki", b"uki"),
        ("systemd-boot 262.1-1.fc46", b"efi", b"uki"),
    ],
)
def test_a_uki_gets_the_key_that_the_loader_counts(info: str, staged: bytes, published: bytes) -> None:
    entry = uki_text(B, "41", "bootc-fedora-0", word=staged.decode())
    files = {**UKI.files, b"/loader/entries.staged/bootc_fedora-41-1.conf": entry}
    decision = make_machine(replace(UKI, files=files), info=info).decide()
    assert (decision.method, decision.tries, _key_of(decision)) == (CountMethod.COUNTER, 3, {published})
    assert decision.plan.default.file_name.endswith(b"+3-0.conf")


@pytest.mark.parametrize("info", [None, "rEFInd 0.14.2"])
def test_of_a_loader_that_is_not_known_only_kernels_are_counted(info: str | None) -> None:
    assert make_machine(UPDATE, info=info).decide().method is CountMethod.COUNTER
    decision = make_machine(UKI, info=info, has_variables=False).decide()
    assert decision.method is None
    assert "does not count boots of an entry with the key uki" in decision.reason
    assert decision.plan.default.tries_left is None


def test_the_installed_loader_counts_not_the_one_that_ran() -> None:
    program = b"MZ" + b"\0" * 5000 + b"#### LoaderInfo: systemd-boot 258.1 ####\0" + b"\0" * 99
    files = {**UKI.files, b"/EFI/systemd/systemd-bootx64.efi": program}
    machine = make_machine(replace(UKI, files=files), info="systemd-boot 257.9")
    assert read_program_info(machine.look()[0]) == "systemd-boot 258.1"
    assert _key_of(machine.decide()) == {b"uki"}


@pytest.mark.parametrize("scenario", [UPDATE, UKI], ids=["kernel", "UKI"])
def test_it_is_tried_three_times_and_then_the_old_one_boots_and_the_directory_never_grows(scenario: Scenario) -> None:
    machine = make_machine(scenario)
    assert machine.publish().method is CountMethod.COUNTER
    new = next(name for name in machine.names() if "+" in name)
    assert new.endswith("-99+3-0.conf")
    model = machine.volume.model
    chain = model.chain(model.find(ENTRIES).start)
    for counters in ("+2-1", "+1-2", "+0-3"):
        assert machine.boot() == B
        assert new.replace("+3-0", counters) in machine.names()
        assert model.chain(model.find(ENTRIES).start) == chain
    assert [machine.boot() for _ in range(3)] == [A, A, A]
    context, _plan = machine.look(order=(A,))
    (running,) = SystemdBootCounter().read(replace(context, one_shots=frozenset()))
    assert (running.digest, running.tries_left, running.tries_done, running.is_given_up) == (B, 0, 3, True)


@pytest.mark.parametrize("tries", range(1, 10))
def test_as_many_tries_as_there_is_room_for_never_grow_the_directory(tries: int) -> None:
    machine = make_machine(has_variables=False)
    decision = machine.publish(tries)
    if 4 * tries > 15:
        assert decision.method is None
        assert f"has no room behind its last name for {tries} renames by the firmware" in decision.reason
        assert not [name for name in machine.names() if "+" in name]
        return
    model = machine.volume.model
    chain = model.chain(model.find(ENTRIES).start)
    booted = [machine.boot() for _ in range(tries + 2)]
    assert booted == [B] * tries + [A] * 2
    assert model.chain(model.find(ENTRIES).start) == chain


@pytest.mark.parametrize("scenario", [UPDATE, UKI], ids=["kernel", "UKI"])
def test_any_cut_while_it_is_published_boots_the_old_or_the_new_default_whole(scenario: Scenario) -> None:
    machine = make_machine(scenario)
    machine.publish()
    known = _with_both_keys(scenario)
    states = 0
    for disk in machine.volume.model.crash_states(seeded(11), subsets=12):
        states += 1
        assert judge(machine.volume.model.mount(disk), known) == []
    assert states > 60


def _with_both_keys(scenario: Scenario) -> Scenario:
    """What is published may have the other key for a UKI."""
    other = {path + b"x.conf": raw.replace(b"\nuki ", b"\nefi ") for path, raw in scenario.files.items()}
    return replace(scenario, files={**scenario.files, **{k: v for k, v in other.items() if b"entries" in k}})


def test_three_tries_lie_in_one_sector_so_that_no_cut_leaves_both_names_or_none() -> None:
    machine = make_machine()
    machine.publish()
    model = machine.volume.model
    for _ in range(3):
        model.start()
        machine.boot()
        assert sum(kind == "write" for kind, _key, _value in model.log) == 1
        for disk in model.crash_states(seeded(13), subsets=12):
            assert len([name for name in model.mount(disk).find(ENTRIES).children if b"+" in name]) == 1


@pytest.mark.parametrize("scenario", [UPDATE, UKI], ids=["kernel", "UKI"])
def test_any_cut_in_the_firmwares_renames_boots_something_whole_and_the_next_run_mends_it(scenario: Scenario) -> None:
    machine = make_machine(scenario)
    machine.publish()
    known, model = _with_both_keys(scenario), machine.volume.model
    states = 0
    for _ in range(3):
        model.start()
        machine.boot()
        for disk in model.crash_states(seeded(12), subsets=12):
            states += 1
            cut = model.mount(disk)
            wrong = judge(cut, known)
            assert wrong == []
            cut.start()
            again = replace(machine, volume=FatVolume(cut), stored={})
            context, plan = again.look(order=(B, A) if _boots(cut, known) == {B} else (A, B))
            publish_volumes(again.volume, again.volume, context.menu, plan)
            after = again.volume.model.mount(again.volume.model.cache)
            assert judge(after, known) == []
            own = [name for name in again.names() if name.startswith("bootc_zz")]
            assert len(own) <= 2, own
    assert states >= 6


def _boots(model: FatModel, scenario: Scenario) -> set[VerityDigest | None]:
    return {entry.digest for entry in find_boots(model, scenario) if entry is not None}


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"LoaderEntryDefault": "bootc_fedora-42-1.conf"}, "would be booted without any tries left"),
        ({"LoaderEntryDefault": "a_memtest.conf"}, "would not be tried: a_memtest.conf boots"),
        ({"LoaderEntryPreferred": "a_memtest.conf"}, "would not be tried: a_memtest.conf boots"),
    ],
)
def test_an_override_that_defeats_the_counter_is_told_and_auto_takes_the_one_shot(
    stored: dict[str, str], said: str
) -> None:
    decision = make_machine(stored=dict(stored)).decide(method=WantedMethod.COUNTER)
    assert decision.method is None
    assert said in decision.reason
    assert decision.plan.default.tries_left is None


def test_a_preferred_entry_of_ours_moves_along_and_honours_the_counter() -> None:
    machine = make_machine(stored={"LoaderEntryPreferred": "bootc_fedora-42-1.conf"}, info="systemd-boot 262")
    assert machine.publish().method is CountMethod.COUNTER
    assert [machine.boot() for _ in range(5)] == [B, B, B, A, A]


def test_a_pattern_that_picks_whatever_comes_first_honours_the_counter() -> None:
    machine = make_machine(stored={"LoaderEntryDefault": "*"})
    assert machine.publish().method is CountMethod.COUNTER
    assert [machine.boot() for _ in range(5)] == [B, B, B, A, A]


def test_somebodys_one_shot_neither_spends_nor_stops_the_counter() -> None:
    machine = make_machine(stored={"LoaderEntryOneShot": "a_memtest.conf"})
    assert machine.publish().method is CountMethod.COUNTER
    assert [machine.boot() for _ in range(5)] == [None, B, B, B, A]


def test_a_counter_that_somebody_put_on_the_staged_entry_is_kept() -> None:
    staged = UPDATE.files[b"/loader/entries.staged/bootc_debian-10-1.conf"]
    files = {path: raw for path, raw in UPDATE.files.items() if raw != staged}
    files[b"/loader/entries.staged/bootc_debian-10-1+5.conf"] = staged
    machine = make_machine(replace(UPDATE, files=files))
    decision = machine.publish()
    assert (decision.method, decision.tries) == (CountMethod.COUNTER, 5)
    assert any(name.endswith("+5.conf") for name in machine.names())
    assert (decision.plan.boot_renames, "no room" in decision.notes[0]) == (0, True)


def test_somebodys_counter_gets_the_room_for_its_renames_too() -> None:
    staged = UPDATE.files[b"/loader/entries.staged/bootc_debian-10-1.conf"]
    files = {path: raw for path, raw in UPDATE.files.items() if raw != staged}
    files[b"/loader/entries.staged/bootc_debian-10-1+2-0.conf"] = staged
    machine = make_machine(replace(UPDATE, files=files))
    assert machine.publish().plan.boot_renames == 2
    model = machine.volume.model
    chain = model.chain(model.find(ENTRIES).start)
    assert [machine.boot() for _ in range(4)] == [B, B, A, A]
    assert model.chain(model.find(ENTRIES).start) == chain


def test_what_runs_and_is_on_trial_itself_becomes_the_fallback_without_a_counter() -> None:
    old = UPDATE.files[b"/loader/entries/bootc_fedora-42-1.conf"]
    files = {path: raw for path, raw in UPDATE.files.items() if raw != old}
    files[b"/loader/entries/bootc_fedora-42-1+2-1.conf"] = old
    machine = make_machine(replace(UPDATE, files=files))
    assert machine.publish().method is CountMethod.COUNTER
    assert [name for name in machine.names() if "+" in name] == [next(n for n in machine.names() if "+3-0" in n)]
    assert [machine.boot() for _ in range(6)] == [B, B, B, A, A, A]


def test_no_tries_count_nothing_and_say_nothing() -> None:
    decision = make_machine().decide(0)
    assert (decision.method, decision.reason, decision.notes) == (None, "", ())
    assert decision.plan.default.tries_left is None


def test_by_one_shot_the_old_default_stays_first_and_the_new_one_boots_once() -> None:
    machine = make_machine(stored={"LoaderEntryDefault": "bootc_fedora-42-1.conf"})
    decision = machine.publish()
    assert (decision.method, decision.tries) == (CountMethod.ONE_SHOT, 1)
    assert "one try instead of 3" in decision.notes[0]
    tried = machine.stored["LoaderEntryOneShot"]
    assert tried in machine.names()
    assert "+" not in tried
    assert machine.stored["LoaderEntryDefault"] != tried
    assert machine.decide().is_noop, "a second finalize finds all of it done"
    assert SystemdBootCounter().read(machine.look(order=(A,))[0])[0].tries_left == 1
    assert [machine.boot() for _ in range(3)] == [B, A, A]
    (running,) = SystemdBootCounter().read(machine.look(order=(A,))[0])
    assert (running.method, running.tries_left, running.is_given_up) == (CountMethod.ONE_SHOT, 0, True)


def test_a_one_shot_that_somebody_set_is_not_overwritten() -> None:
    machine = make_machine(stored={"LoaderEntryOneShot": "a_memtest.conf"})
    decision = machine.decide(method=WantedMethod.ONE_SHOT)
    assert decision.method is None
    assert "LoaderEntryOneShot is set already and would be lost" in decision.reason


def test_where_neither_can_be_had_both_reasons_are_told() -> None:
    machine = make_machine(stored={"LoaderEntryDefault": "a_memtest.conf"})
    decision = machine.decide()
    assert decision.method is None
    assert "a_memtest.conf boots" in decision.reason
    assert "after the try a_memtest.conf would boot" in decision.reason


def test_without_the_kernels_exchange_a_counted_set_is_refused_before_anything_live_changes() -> None:
    machine = make_machine()
    machine.volume.model.can_exchange = False
    before = machine.names()
    with pytest.raises(BootEntryError, match="no room for the boot loader's renames") as caught:
        machine.publish()
    assert "tries = 0" in (caught.value.hint or "")
    assert machine.names() == before


def test_what_cannot_be_copied_beside_is_not_counted() -> None:
    machine = make_machine(has_variables=False)
    machine.volume.make_directory(b"/loader/entries/notes")
    decision = machine.decide()
    assert decision.method is None
    assert "notes is no file" in decision.reason


def test_a_loader_that_nobody_can_count_by_says_so() -> None:
    context, plan = make_machine().look()
    other = replace(context.menu, loader=Loader.GRUB_CC)
    counter = counter_of(record_of(Loader.GRUB_CC))
    assert counter.decide(replace(context, menu=other), plan, CountWish()).reason.endswith("cannot")
    assert counter.decide(replace(context, menu=other), plan, CountWish(0)).reason == ""
    assert counter.read(context) == ()


def test_names_keep_their_constant_over_many_trials() -> None:
    """GRUB takes a counter for a part of the name; whoever reads the names later finds them in order all the same."""
    machine = make_machine()
    for _ in range(4):
        machine.publish()
        context, _plan = machine.look(order=(A,))
        blessed = plan_menu(context.menu, order=(B, A), staged=None, blessed=B)
        publish_volumes(machine.volume, machine.volume, context.menu, blessed)
        assert {name[:9] for name in machine.names() if name.startswith("boot") and "fedora" not in name} == {
            "bootc_zz-"
        }
