"""GRUB's counting: what is decided and why not, what is written, and what GRUB makes of it at any power cut."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from unit.boot.counting.grub_machine import HEADER, STATIC, GrubMachine
from unit.boot.fat_model import FatModel, seeded
from unit.boot.fat_volume import FatVolume
from unit.boot.faults import FaultyVolume, JournalVolume, Trigger, make_volume
from unit.boot.scenarios import HEADER as CFG_HEADER
from unit.boot.scenarios import KNOWN, A, B, C, Scenario, judge, make_scenarios, menuentry

from bootc_fast.boot.counting.grub import GrubCounter
from bootc_fast.boot.counting.grub_script import SCRIPT, add_block, render_script
from bootc_fast.boot.counting.records import CountContext, Counting, CountMethod, CountWish, Decision
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.beside import remove_outdated
from bootc_fast.boot.entries.deployment_order import order_after_finalize, order_after_rollback
from bootc_fast.boot.entries.menu import BootMenu, read_volumes
from bootc_fast.boot.entries.plan import MenuPlan, plan_menu
from bootc_fast.boot.entries.publish import publish_volumes
from bootc_fast.boot.loaders.grub_trial import ALLOWED, FALLBACK, PLACE, TRIAL, TRIES, VARIABLES
from bootc_fast.boot.loaders.grubenv import change_grubenv, parse_grubenv
from bootc_fast.boot.loaders.table import record_of
from bootc_fast.errors import BootEntryError, FileSystemError
from bootc_fast.types import Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bootc_fast.boot.area.directory import BootVolume

SCENARIOS = {scenario.name: scenario for scenario in make_scenarios()}
CONFIG, CUSTOM, GRUBENV = b"/grub2/grub.cfg", b"/grub2/custom.cfg", b"/grub2/grubenv"
BLOCK = HEADER + b"saved_entry=x\nother=kept # it is\n"
FILES = {CONFIG: STATIC, GRUBENV: BLOCK.ljust(1024, b"#")}


def _counted(name: str, **files: bytes) -> Scenario:
    scenario = SCENARIOS[name]
    return replace(scenario, files={**scenario.files, **FILES, **{f"/grub2/{k}".encode(): v for k, v in files.items()}})


BLS, UKI = _counted("grub BLS update"), _counted("grub UKI update")
UPDATES = [pytest.param(BLS, id="blscfg"), pytest.param(UKI, id="user.cfg")]


@dataclass
class Host:
    """A host where A runs and B is staged."""

    scenario: Scenario
    volume: BootVolume
    is_live: bool = False
    counter: GrubCounter = field(default_factory=GrubCounter)

    def look(self, order: Sequence[VerityDigest] = ()) -> tuple[CountContext, MenuPlan]:
        menu = self.read()
        staged = B if menu.staged.is_present and not order else None
        wanted = order or order_after_finalize(menu, staged=B, booted=A, kept=KNOWN)
        context = CountContext(menu, self.volume, self.volume, booted=A, target=wanted[0], is_live=self.is_live)
        return context, plan_menu(menu, order=wanted, staged=staged)

    def read(self) -> BootMenu:
        return read_volumes(self.volume, self.volume, loader=Loader.GRUB, known=KNOWN)

    def decide(self, tries: int = 3) -> Decision:
        return self.counter.decide(*self.look(), CountWish(tries))

    def publish(self, tries: int = 3, order: Sequence[VerityDigest] = ()) -> Decision:
        context, plan = self.look(order)
        decision = self.counter.decide(context, plan, CountWish(tries))
        trial = Counting(self.counter, context, decision)
        self.warnings = publish_volumes(self.volume, self.volume, context.menu, decision.plan, trial=trial).warnings
        return decision

    def boots(self, count: int = 1, *, writes: bool = True) -> list[VerityDigest | None]:
        """What boots, by every rule alike."""
        found = []
        for _ in range(count):
            entry = GrubMachine(self.volume, self.read().rule, KNOWN, writes=writes).boot()
            found.append(None if entry is None else entry.digest)
        return found

    def variables(self) -> dict[bytes, bytes]:
        return parse_grubenv(self.volume.read_file(GRUBENV, 4096) or b"")


def _host(scenario: Scenario = BLS) -> Host:
    volume = FatVolume(FatModel())
    scenario.install(volume)
    volume.model.start()
    return Host(scenario, volume)


def test_grub_counts() -> None:
    assert isinstance(counter_of(record_of(Loader.GRUB)), GrubCounter)


@pytest.mark.parametrize("scenario", UPDATES)
def test_it_is_tried_three_times_and_then_the_old_one_boots_and_stays(scenario: Scenario) -> None:
    host = _host(scenario)
    decision = host.publish()
    assert (decision.method, decision.tries, decision.reason, host.warnings) == (CountMethod.GRUBENV, 3, "", ())
    assert host.boots(5) == [B, B, B, A, A]
    (running,) = host.counter.read(host.look(order=(A, B))[0])
    assert (running.digest, running.tries_left, running.tries_done, running.is_given_up) == (B, 0, 3, True)
    values = host.variables()
    assert (values[b"saved_entry"], values[b"other"]) == (b"x", b"kept # it is")


@pytest.mark.parametrize("scenario", UPDATES)
def test_after_the_first_try_it_has_two_more_and_is_what_boots_next(scenario: Scenario) -> None:
    host = _host(scenario)
    host.publish()
    assert host.boots() == [B]
    (running,) = host.counter.read(host.look(order=(A, B))[0])
    assert (running.digest, running.tries_left, running.tries_done, running.is_given_up) == (B, 2, 1, False)
    menu = host.read()
    assert menu.default is not None
    assert menu.default.digest == B
    assert "bootc_fast_trial in grubenv" in menu.live.choice.reason


@pytest.mark.parametrize("scenario", UPDATES)
def test_a_good_boot_ends_it_and_every_other_variable_stays(scenario: Scenario) -> None:
    host = _host(scenario)
    host.publish()
    host.boots()
    context, _plan = host.look(order=(B, A))
    assert host.counter.end(context) == []
    assert host.volume.read_file(GRUBENV, 4096) == FILES[GRUBENV]
    assert host.boots(4) == [B, B, B, B]
    assert host.counter.read(host.look(order=(B, A))[0]) == ()
    before = len(host.volume.model.log)  # type: ignore[attr-defined]
    assert host.counter.end(host.look(order=(B, A))[0]) == []
    assert len(host.volume.model.log) == before, "nothing is written where nothing is there"  # type: ignore[attr-defined]


@pytest.mark.parametrize("scenario", UPDATES)
def test_after_the_fallback_the_good_one_is_made_regular_and_the_end_clears_the_rest(scenario: Scenario) -> None:
    host = _host(scenario)
    host.publish()
    host.boots(4)
    context, plan = host.look(order=(A, B))
    publish_volumes(host.volume, host.volume, context.menu, plan)
    assert host.boots(2) == [A, A], "cut before the end"
    assert host.counter.end(host.look(order=(A, B))[0]) == []
    assert host.boots(2) == [A, A]
    assert not set(VARIABLES) & set(host.variables())


def test_a_second_finalize_finds_all_of_it_done() -> None:
    host = _host()
    host.publish()
    again = host.decide()
    assert again.is_noop
    assert (again.method, again.tries) == (CountMethod.GRUBENV, 3)


def test_a_second_finalize_keeps_the_count_that_is_under_way() -> None:
    host = _host()
    host.publish()
    host.boots()
    again = host.publish(5)
    assert (again.method, again.tries) == (CountMethod.GRUBENV, 2)
    assert host.boots(4) == [B, B, A, A]


def test_a_publication_that_renames_the_entry_on_trial_keeps_its_count() -> None:
    host = _host()
    host.publish()
    host.boots()
    before = host.variables()
    context, plan = host.look(order=(B, A, C))
    assert plan.default.digest == B
    renamed = replace(plan.default, file_name=b"bootc_zz-00000009-99.conf")
    shown = tuple(renamed if one == plan.default else one for one in plan.shown)
    plan = replace(plan, default=renamed, shown=shown)
    decision = host.counter.decide(context, plan, CountWish(9))
    assert (decision.method, decision.tries) == (CountMethod.GRUBENV, 2)
    host.counter.begin(context, decision)
    after = host.variables()
    assert after[TRIAL] == b"bootc_zz-00000009-99" != before[TRIAL]
    assert (after[TRIES], after[ALLOWED]) == (b"2", b"3")


def test_what_was_given_up_begins_anew_where_somebody_insists() -> None:
    host = _host()
    host.publish()
    host.boots(4)
    again = host.publish()
    assert (again.method, again.tries) == (CountMethod.GRUBENV, 3)
    assert host.boots(4) == [B, B, B, A]


def _with_another() -> Host:
    """C is on trial and was booted once, and B is staged."""
    raw = {b"/grub2/user.cfg": CFG_HEADER + menuentry(A) + menuentry(C)}
    host = _host(replace(UKI, files={**UKI.files, **raw}))
    host.publish(order=(C, A))
    directory = host.volume.open_directory(b"grub2")
    assert directory is not None
    directory.write_new(b"user.cfg.staged", UKI.files[b"/grub2/user.cfg.staged"])
    assert host.boots() == [C]
    return host


def test_another_update_takes_the_trial_over() -> None:
    host = _with_another()
    host.publish()
    assert host.boots(4) == [B, B, B, A]


@pytest.mark.parametrize("scenario", UPDATES)
def test_a_default_that_is_not_counted_ends_the_trial_of_another_one(scenario: Scenario) -> None:
    host = _host(scenario)
    host.publish()
    host.boots()
    decision = host.publish(0, order=(A, B))
    assert (decision.method, decision.reason, decision.notes) == (None, "", ())
    assert host.boots(3) == [A, A, A]
    assert not set(VARIABLES) & set(host.variables())


def test_no_tries_write_nothing_of_ours() -> None:
    host = _host()
    host.publish(0)
    assert host.volume.read_file(CUSTOM, 4096) is None
    assert host.volume.read_file(b"/grub2/" + SCRIPT, 4096) is None
    assert host.volume.read_file(GRUBENV, 4096) == FILES[GRUBENV]


@pytest.mark.parametrize("scenario", UPDATES)
def test_grub_that_cannot_write_boots_what_was_good(scenario: Scenario) -> None:
    host = _host(scenario)
    host.publish()
    assert host.boots(2, writes=False) == [A, A]
    (running,) = host.counter.read(host.look(order=(A, B))[0])
    assert (running.tries_left, running.tries_done) == (3, 0), "never tried"
    assert host.boots() == [B]


@pytest.mark.parametrize("value", [b"", b"0", b"4", b"-1", b"03", b"3 ", b"x", b"\xff", b"99999999999"])
def test_a_counter_that_is_no_number_of_tries_counts_as_used_up(value: bytes) -> None:
    host = _host()
    host.publish()
    raw = change_grubenv(host.volume.read_file(GRUBENV, 4096), {TRIES: value})
    directory = host.volume.open_directory(b"grub2")
    assert directory is not None
    directory.overwrite(b"grubenv", raw)
    assert host.boots(2) == [A, A]
    (running,) = host.counter.read(host.look(order=(A, B))[0])
    assert (running.tries_left, running.is_given_up) == (0, True)
    menu = host.read()
    assert menu.default is not None
    assert menu.default.digest == A


def test_an_admins_choice_for_one_boot_is_heeded_once_and_spends_no_try() -> None:
    host = _host(UKI)
    host.publish()
    raw = change_grubenv(host.volume.read_file(GRUBENV, 4096), {b"next_entry": host.variables()[FALLBACK]})
    directory = host.volume.open_directory(b"grub2")
    assert directory is not None
    directory.overwrite(b"grubenv", raw)
    assert host.boots(5) == [A, B, B, B, A]


def test_where_grub_cfg_has_heeded_it_the_script_stands_aside() -> None:
    heeds = STATIC.replace(b"set timeout=1\n", b"set timeout=1\nset default=1\nset boot_once=true\n")
    host = _host(_counted("grub UKI update", **{"grub.cfg": heeds}))
    host.publish()
    assert host.boots(2) == [A, A]
    assert host.variables()[TRIES] == b"3"


def _text(scenario: Scenario, name: str, change: Callable[[bytes], bytes]) -> Scenario:
    path = f"/grub2/{name}".encode()
    return replace(scenario, files={**scenario.files, path: change(scenario.files.get(path, b""))})


MARK = b"### BEGIN bootc-fast ###\n"
CHANGED = "custom.cfg: the block of bootc-fast in it was changed"
SOURCES = b"source $prefix/custom"


def _config(change: Callable[[bytes], bytes]) -> Scenario:
    return _text(BLS, "grub.cfg", change)


def _custom(raw: bytes) -> Scenario:
    return _text(BLS, "custom.cfg", lambda _: raw)


def _environment(raw: bytes) -> Scenario:
    return _text(BLS, "grubenv", lambda _: raw)


def _staged(*items: bytes) -> Scenario:
    return _text(UKI, "user.cfg.staged", lambda _: CFG_HEADER + b"".join(items))


REASONS: dict[str, tuple[Scenario, str]] = {
    "no grub.cfg": (replace(BLS, files={k: v for k, v in BLS.files.items() if k != CONFIG}), "grub.cfg is not there"),
    "custom.cfg not read": (_config(lambda raw: raw.partition(b"### BEGIN 41")[0]), "does not read custom.cfg"),
    "only told of": (_config(lambda raw: raw.replace(SOURCES, b"# " + SOURCES)), "does not read custom.cfg"),
    "another one": (_config(lambda raw: raw.replace(SOURCES, b"source /other/custom")), "does not read custom.cfg"),
    "default after it": (_config(lambda raw: raw + b"set default=0\n"), "sets `default` after"),
    "bare default": (_config(lambda raw: raw + b"if true; then default=1; fi"), "sets `default` after"),
    "our block cut": (_custom(MARK + b"set x=1\n"), CHANGED),
    "our block changed": (_custom(add_block(b"").replace(b"source", b"echo")), CHANGED),
    "our block twice": (_custom(add_block(b"") * 2), CHANGED),
    "custom.cfg leaves": (
        _custom(b"if [ -n $x ]; then\n return\nfi\n"),
        "GRUB may leave it before its end, at `return`",
    ),
    "custom.cfg open": (_custom(b'menuentry "x" {\n'), "it ends inside of a quote, a block or an if"),
    "a script of somebody": (_text(BLS, SCRIPT.decode(), lambda _: b"# mine\n"), "bootcfast.cfg is somebody else's"),
    "grubenv full": (_environment((HEADER + b"x=" + b"y" * 996 + b"\n").ljust(1024, b"#")), "grubenv: it is full"),
    "grubenv open": (_environment((HEADER + b"x=y").ljust(1024, b"#")), "grubenv: its last line has no end"),
    "grubenv open, escaped": (_environment(HEADER + b"x=y\\\n###"), "grubenv: its last line has no end"),
    "digit": (_staged(menuentry(B, "9 Lives"), menuentry(A)), "begins with a digit"),
    "digit of the old one": (_text(UKI, "user.cfg", lambda _: CFG_HEADER + menuentry(A, " 42")), "begins with a digit"),
    "variable": (_staged(menuentry(B, "Bee ${x}"), menuentry(A)), "has a variable"),
}


@pytest.mark.parametrize(("scenario", "said"), REASONS.values(), ids=REASONS)
def test_what_cannot_be_counted_says_why_and_is_published_all_the_same(scenario: Scenario, said: str) -> None:
    host = _host(scenario)
    decision = host.publish()
    assert decision.method is None
    assert said in decision.reason
    for name in (b"grubenv", b"custom.cfg", SCRIPT):
        assert host.volume.read_file(b"/grub2/" + name, 1 << 23) == scenario.files.get(b"/grub2/" + name)
    menu = host.read()
    assert menu.default is not None
    assert menu.default.digest == B


def test_two_items_of_one_title_are_not_counted() -> None:
    foreign = menuentry("f" * 64).replace(b"f" * 64 + b")", B.encode() + b")")
    host = _host(replace(UKI, files={**UKI.files, b"/grub2/user.cfg": CFG_HEADER + menuentry(A) + foreign}))
    assert "is the name of more than one item of the menu" in host.decide().reason


GREENBOOT = b"""\
### BEGIN 08_greenboot.cfg ###
insmod increment
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  decrement boot_counter
  save_env boot_counter
fi
set boot_success=0
save_env boot_success### END 08_greenboot.cfg ###
"""


@pytest.mark.parametrize("text", [GREENBOOT, b"if true; then\n decrement boot_counter\nfi\n"])
def test_a_grub_cfg_that_counts_itself_is_left_to_that_which_is_no_failure(text: bytes) -> None:
    decision = _host(_text(BLS, "grub.cfg", lambda raw: text + raw)).decide()
    assert (decision.method, decision.reason) == (None, "")
    assert "left to that" in decision.notes[0]


def test_a_grub_cfg_that_only_hides_its_menu_by_boot_success_counts_nothing() -> None:
    hides = b'if [ "${boot_success}" = "1" ]; then\n set timeout=1\nfi\n'
    assert _host(_text(BLS, "grub.cfg", lambda raw: hides + raw)).decide().method is CountMethod.GRUBENV


@pytest.mark.parametrize(
    "raw",
    [None, b"", HEADER, HEADER + b"other=1\n", (HEADER + b"other=1\n").ljust(512, b"#"), b"\0" * 1024, b"x" * 1024,
     (HEADER + b"other=1\n").ljust(1024, b"\0"), (HEADER + b"other=1\n").ljust(4096, b"#")],
    ids=["absent", "empty", "header", "short", "half", "zeros", "rubbish", "zeros behind", "long"],
)  # fmt: skip
def test_an_environment_block_that_grub_could_not_write_is_made_whole(raw: bytes | None) -> None:
    files = {path: data for path, data in BLS.files.items() if path != GRUBENV}
    host = _host(replace(BLS, files=files if raw is None else {**files, GRUBENV: raw}))
    decision = host.publish()
    assert decision.method is CountMethod.GRUBENV
    assert ("no environment block" in " ".join(host.warnings)) is (
        raw is not None and not raw.startswith(HEADER) and bool(raw)
    )
    block = host.volume.read_file(GRUBENV, 4096) or b""
    assert len(block) == 1024
    assert (parse_grubenv(block).get(b"other") == b"1") is (b"other" in (raw or b""))
    assert host.boots(4) == [B, B, B, A]


def test_what_an_admin_wrote_into_custom_cfg_stays_byte_for_byte() -> None:
    admins = b"# mine\r\nset default=1\n\tmenuentry 'Mine' { echo 'a b'; }\nset x=\"no line end\""
    host = _host(_text(BLS, "custom.cfg", lambda _: admins))
    host.publish()
    custom = host.volume.read_file(CUSTOM, 4096) or b""
    assert custom.startswith(admins + b"\n### BEGIN bootc-fast ###\n")
    assert custom == add_block(custom)
    (place,) = [host.variables()[PLACE]]
    assert place == b"1"


def test_the_fallbacks_place_counts_foreign_items_and_is_left_out_where_it_is_not_certain() -> None:
    foreign = b'menuentry "Windows" {\nchainloader /EFI/Microsoft/Boot/bootmgfw.efi\n}\n'
    host = _host(_text(UKI, "user.cfg", lambda _: foreign + CFG_HEADER + menuentry(A)))
    host.publish()
    assert host.variables()[PLACE] == b"2"
    for text in (b'submenu "More" {\n' + foreign + b"}\n", b"if [ -n $x ]; then\n", b"source $prefix/more.cfg\n"):
        host = _host(_text(UKI, "user.cfg", lambda _, text=text: text + CFG_HEADER + menuentry(A)))  # type: ignore[misc]
        host.publish()
        assert PLACE not in host.variables()
    host = _host(_text(BLS, "grub.cfg", lambda raw: foreign + raw))
    host.publish()
    assert PLACE not in host.variables()
    assert host.boots(4) == [B, B, B, A]


def test_a_title_with_an_angle_bracket_and_quotes_is_found_by_its_name() -> None:
    old, new = menuentry(A, 'it\'s > \\"old\\"'), menuentry(B, "a >> b, 100%")
    scenario = _text(UKI, "user.cfg", lambda _: CFG_HEADER + old)
    host = _host(_text(scenario, "user.cfg.staged", lambda _: CFG_HEADER + new + old))
    host.publish()
    assert host.variables()[TRIAL].startswith(b"a >>>> b, 100%: (bbb")
    assert host.boots(5) == [B, B, B, A, A]
    menu = host.read()
    assert menu.default is not None
    assert menu.default.digest == A


# -- power cuts and failures -------------------------------------------------------------------------------------------


@cache
def _publish_once(name: str) -> tuple[FatModel, Scenario]:
    scenario = {"bls": BLS, "uki": UKI, "fallback": UKI}[name]
    host = _host(scenario)
    host.publish()
    return host.volume.model, scenario  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["bls", "uki"])
def test_any_cut_while_a_trial_begins_boots_old_or_new_whole_and_a_new_default_is_always_counted(name: str) -> None:
    model, scenario = _publish_once(name)
    states, tried = 0, 0
    for disk in model.crash_states(seeded(21), subsets=5):
        cut = model.mount(disk)
        assert judge(cut, scenario) == []
        host = Host(scenario, FatVolume(cut))
        found = host.boots(5)
        assert found in ([A] * 5, [B, B, B, A, A], [A, B, B, B, A]), found
        tried += B in found
        states += 1
        block = host.volume.read_file(GRUBENV, 4096) or b""
        assert b"other=kept # it is\n" in block
    assert states > 60
    assert 0 < tried < states


@pytest.mark.parametrize("name", ["bls", "uki"])
def test_the_run_after_any_cut_ends_in_a_counted_set(name: str) -> None:
    model, scenario = _publish_once(name)
    for disk in model.crash_states(seeded(22), subsets=3):
        cut = model.mount(disk)
        cut.start()
        host = Host(scenario, FatVolume(cut))
        # As at every boot.
        remove_outdated(host.volume)
        host.publish()
        assert host.boots(5) == [B, B, B, A, A]


@pytest.mark.parametrize("scenario", UPDATES)
@pytest.mark.parametrize("step", ["bless", "fallback"])
def test_any_cut_while_a_trial_ends_boots_what_it_should(scenario: Scenario, step: str) -> None:
    host = _host(scenario)
    host.publish()
    host.boots(1 if step == "bless" else 4)
    model = host.volume.model  # type: ignore[attr-defined]
    model.start()
    wanted = (B, A) if step == "bless" else (A, B)
    if step == "fallback":
        context, plan = host.look(order=wanted)
        publish_volumes(host.volume, host.volume, context.menu, plan)
    host.counter.end(host.look(order=wanted)[0])
    allowed = ([B, B, A], [B, B, B]) if step == "bless" else ([A, A, A],)
    for disk in model.crash_states(seeded(23), subsets=10):
        cut = Host(scenario, FatVolume(model.mount(disk)))
        assert judge(cut.volume.model, scenario) == []  # type: ignore[attr-defined]
        assert cut.boots(3) in allowed


@pytest.mark.parametrize("scenario", UPDATES)
@pytest.mark.parametrize(
    ("tries_by_grub", "allowed"),
    [(0, ([B, B, B, A], [B, B, A, A])), (1, ([B, B, A, A],)), (3, ([A, A, A, A],))],
)
def test_any_cut_while_a_start_is_counted_leaves_as_many_tries_as_before_or_one_less(
    scenario: Scenario, tries_by_grub: int, allowed: tuple[list[VerityDigest], ...]
) -> None:
    """What GRUB has counted is only noted, so that every state has as many."""
    host = _host(scenario)
    host.publish()
    host.boots(tries_by_grub)
    model = host.volume.model  # type: ignore[attr-defined]
    model.start()
    context = replace(host.look(order=(B, A))[0], booted=B)
    assert host.counter.count_start(context) == []
    for disk in model.crash_states(seeded(24), subsets=10):
        cut = Host(scenario, FatVolume(model.mount(disk)))
        assert judge(cut.volume.model, scenario) == []  # type: ignore[attr-defined]
        assert b"other=kept # it is\n" in (cut.volume.read_file(GRUBENV, 4096) or b"")
        assert cut.boots(4) in allowed
    assert host.boots(4) == allowed[-1]


@pytest.mark.parametrize("scenario", UPDATES)
def test_on_a_journaled_file_system_every_prefix_boots_old_or_new_counted(scenario: Scenario) -> None:
    volume = JournalVolume()
    scenario.install(volume)
    volume.snapshot()
    Host(scenario, volume).publish()
    assert len(volume.states) >= 10
    seen = set()
    for state in volume.states:
        found = tuple(Host(scenario, make_volume(state)).boots(5))
        assert found in ((A,) * 5, (B, B, B, A, A)), found
        seen.add(found)
    assert len(seen) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("scenario", UPDATES)
def test_after_any_one_failure_the_old_set_is_in_force_uncounted_or_the_new_one_counted(
    scenario: Scenario, number: int
) -> None:
    counting = Trigger()
    _publish_faulty(_host(scenario), counting)
    outcomes = set()
    # Each operation fails with one of the two.
    for at in range(number % 2, len(counting.calls), 2):
        host = _host(scenario)
        with contextlib.suppress(BootEntryError, FileSystemError):
            _publish_faulty(host, Trigger(at, number))
        found = tuple(host.boots(5))
        assert found in ((A,) * 5, (B, B, B, A, A), (B,) * 5), (counting.calls[at], found)
        outcomes.add(found)
    assert (A,) * 5 in outcomes
    assert (B, B, B, A, A) in outcomes


def _publish_faulty(host: Host, trigger: Trigger) -> None:
    context, plan = host.look()
    faulty = FaultyVolume(host.volume, trigger)
    context = replace(context, boot=faulty, esp=faulty)  # type: ignore[arg-type]
    decision = host.counter.decide(context, plan, CountWish())
    trial = Counting(host.counter, context, decision)
    publish_volumes(faulty, faulty, context.menu, decision.plan, trial=trial)  # type: ignore[arg-type]


def test_a_publication_that_fails_takes_the_variables_back() -> None:
    host = _host()
    context, plan = host.look()
    decision = host.counter.decide(context, plan, CountWish())
    assert host.counter.begin(context, decision) == []
    assert TRIAL in host.variables()
    assert host.counter.take_back(context, decision) == []
    assert host.volume.read_file(GRUBENV, 4096) == FILES[GRUBENV]


def test_an_earlier_trials_variables_come_back_where_the_publication_of_another_fails() -> None:
    host = _with_another()
    before = host.variables()
    context, plan = host.look()
    decision = host.counter.decide(context, plan, CountWish())
    assert decision.method is CountMethod.GRUBENV
    host.counter.begin(context, decision)
    assert host.variables()[TRIAL] != before[TRIAL]
    host.counter.take_back(context, decision)
    assert host.variables() == before


def test_the_script_is_of_as_many_tries_as_the_policy_says() -> None:
    for tries in (1, 9):
        host = _host()
        assert host.publish(tries).tries == tries
        assert host.volume.read_file(b"/grub2/" + SCRIPT, 9999) == render_script(tries)
        assert host.variables()[ALLOWED] == b"%d" % tries
        assert host.boots(tries + 2) == [B] * tries + [A, A]


def test_a_rollback_to_what_failed_is_counted_too() -> None:
    host = _host(_counted("grub UKI rollback"))
    menu = host.read()
    order = order_after_rollback(menu, first=C, kept=KNOWN)
    host.publish(order=order)
    assert host.boots(5) == [C, C, C, A, A]
