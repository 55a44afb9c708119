"""What ``status`` says of trials that are running: tries left, what happens next, and what would not be noticed.

Source:
    Spec trial.md, "Counting" and "Health", last paragraph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.counting.records import CountMethod
from bootc_fast.boot.counting.table import counter_of
from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.boot.loaders.entry import parse_text
from bootc_fast.errors import BootcFastError
from bootc_fast.flows.counting import make_count_context
from bootc_fast.text import describe_error
from bootc_fast.trial.states import TrialRecord, TrialState, read_states
from bootc_fast.trial.verdict import judge_deployment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bootc_fast.boot.counting.records import CountContext, RunningTrial
    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.composefs.boot_snapshot import BootSnapshot
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.machine.host import Host
    from bootc_fast.types import VerityDigest

_MAX_CONF_BYTES = 1 << 16
_WATCHDOG_KEY = "RuntimeWatchdogSec"
_SYSTEM_CONF = "systemd/system.conf"
# As systemd reads them: the file itself, from the first place that has it, and then every drop-in.
_CONF_PLACES = ("usr/lib", "usr/local/lib", "run", "etc")
_OFF = frozenset({"", "0", "off", "infinity"})


def judge_trial(
    states: Mapping[VerityDigest, TrialRecord],
    digest: VerityDigest,
    menu: BootMenu | None,
    running: RunningTrial | None,
    *,
    is_staged: bool,
    is_booted: bool,
) -> TrialRecord | None:
    """Say what is known of a deployment: what was noted, and what the boot loader has of it."""
    # What runs on its last try has not failed yet.
    record = judge_deployment(states, digest, None if is_booted else menu, is_staged=is_staged)
    if record is not None and record.state not in (TrialState.NEW, TrialState.TRIAL):
        return record
    if running is None:
        return record
    if running.is_given_up and not is_booted and not (record is not None and record.is_forgiven):
        reasons = record.reasons if record is not None else ()
        return TrialRecord(TrialState.FAILED, tries=running.tries_done or None, reasons=reasons)
    if record is None or (record.state is TrialState.NEW and not record.is_forgiven and not is_staged):
        # Somebody else counts, or a cut came between the boot entries and the note.
        return TrialRecord(TrialState.TRIAL, method=running.method)
    return record


def look_at_trials(survey: Survey, boot: BootSnapshot, notes: list[str]) -> dict[VerityDigest, RunningTrial]:
    """Read which trials are running; blocks. What cannot be read is a warning."""
    context = _make_context(survey, boot)
    try:
        return {one.digest: one for one in counter_of(boot.menu.record).read(context)}
    except (BootcFastError, OSError) as error:
        notes.append(f"how boots are counted cannot be told: {describe_error(error)}")
        return {}


def _make_context(survey: Survey, boot: BootSnapshot) -> CountContext:
    states, _unread = read_states(survey.host)
    return make_count_context(survey.host, survey, boot, states)


def list_trial_remarks(survey: Survey, boot: BootSnapshot, running: RunningTrial) -> tuple[str, ...]:
    """Say what a trial that is running would not notice; blocks."""
    return tuple(_find_remarks(survey, boot, running))


def _find_remarks(survey: Survey, boot: BootSnapshot, running: RunningTrial) -> Iterator[str]:
    from bootc_fast.boot.counting.systemd_boot import read_program_info

    host = survey.host
    if running.method is CountMethod.ONE_SHOT and running.digest == survey.booted.digest:
        yield "until a boot of it is complete the one before it comes first, which bootc takes for a queued change"
    if not _reboots_on_panic(host, boot, running.digest):
        yield "a kernel panic of it does not end: `panic=30` on the kernel command line would count it as a try"
    if not has_watchdog(host):
        yield f"a hang of it does not end: `{_WATCHDOG_KEY}=` in /etc/systemd/system.conf would count it as a try"
    info = read_program_info(_make_context(survey, boot))
    needs_power_cycle = boot.menu.record.find_counting(info).needs_power_cycle
    if boot.menu.record.counts_in is not None and needs_power_cycle:
        yield f"a kernel of it that does not load needs a power cycle ({info or boot.menu.rule.name})"


def _reboots_on_panic(host: Host, boot: BootSnapshot, digest: VerityDigest) -> bool:
    """Whether its command line, or of a UKI that of what runs, says when the kernel restarts after a panic."""
    entry = choose_entry(boot.menu, digest, prefers_staged=False)
    text = b""
    if entry is not None and entry.linux is not None:
        text = b" ".join(parse_text(entry.raw).find_all(b"options"))
    else:
        try:
            text = host.read_bytes(host.proc_cmdline, max_bytes=_MAX_CONF_BYTES)
        except OSError:
            return True
    values = [word.removeprefix(b"panic=") for word in text.split() if word.startswith(b"panic=")]
    return bool(values) and values[-1] != b"0"


def has_watchdog(host: Host) -> bool:
    """Whether the service manager is told to keep a hardware watchdog quiet, which resets a machine that hangs; blocks.

    Source:
        systemd-system.conf(5), "RuntimeWatchdogSec" and "CONFIGURATION DIRECTORIES AND PRECEDENCE".
    """
    values: list[str] = []
    for place in _CONF_PLACES:
        values += _read_watchdog(host, f"{place}/{_SYSTEM_CONF}")
    drop_ins: dict[str, str] = {}
    for place in _CONF_PLACES:
        directory = f"{place}/{_SYSTEM_CONF}.d"
        try:
            names = host.list_directory(host.root / directory)
        except OSError:
            continue
        drop_ins |= {name.decode("utf-8", "surrogateescape"): directory for name in names if name.endswith(b".conf")}
    for name, directory in sorted(drop_ins.items()):
        values += _read_watchdog(host, f"{directory}/{name}")
    return bool(values) and values[-1].strip() not in _OFF


def _read_watchdog(host: Host, path: str) -> list[str]:
    import configparser

    parser = configparser.RawConfigParser(strict=False, interpolation=None, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        text = host.read_bytes(host.root / path, max_bytes=_MAX_CONF_BYTES).decode("utf-8", "replace")
        parser.read_string(text)
        value = parser.get("Manager", _WATCHDOG_KEY, fallback=None)
    except (OSError, configparser.Error):
        return []
    return [] if value is None else [value]
