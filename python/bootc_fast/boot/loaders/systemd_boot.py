"""systemd-boot: how it orders entries, what it shows, and what it lets pick another one than the first."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.entry import (
    MenuEntry,
    parse_artifact_digest,
    parse_counters,
    parse_text,
    strip_counters,
    unquote,
)
from bootc_fast.boot.loaders.override import LoaderOverride, Outside, OverrideKind
from bootc_fast.boot.loaders.record import BootCounting, CountsIn, LoaderRecord, LoaderRule
from bootc_fast.boot.loaders.version import compare_uapi
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootc_fast.boot.loaders.override import LoaderVariables

CONF_KEYS = {OverrideKind.PREFERRED_CONF: b"preferred", OverrideKind.LOADER_CONF: b"default"}
"""The keys of ``loader.conf`` that pick an entry."""

_SAVED = b"@saved"
_FEATURE_PREFERRED = 1 << 19
"""Bit of ``LoaderFeatures``: from systemd 260 on the loader knows ``LoaderEntryPreferred`` and ``preferred``."""
_VERSION = re.compile(r"systemd-boot (\d{1,4})\b")
_FIRST_WITH_UKI_KEY = 258
_FIRST_WITHOUT_COUNTERS_IN_IDS = 257
_FIRST_WITH_RESET = 258


def _sign(left: bool | int, right: bool | int) -> int:  # noqa: FBT001 - both are compared as numbers
    return (left > right) - (left < right)


_ASCII = range(0x80)
_CONTINUATION = range(0x80, 0xC0)
_SURROGATES = range(0xD800, 0xE000)
_UCS2 = range(0x10000)


def _sequence_length(first: int) -> int:
    """Length of the UTF-8 sequence that a byte begins, in the old form with up to 6 bytes; 1 where it begins none."""
    leading_ones = 8 - (first ^ 0xFF).bit_length()
    return leading_ones if leading_ones in range(2, 7) else 1


def _ucs2(value: bytes | None) -> list[int]:
    """What systemd-boot compares: UCS-2. It skips what is no UTF-8, and all characters that UCS-2 does not have.

    Source:
        systemd ``src/boot/efi-string.c``, ``xstrn8_to_16``; its menu in a machine (``tests/vm/test_uki_story.py``).
    """
    data, at, units = value or b"", 0, []
    while at < len(data):
        length = _sequence_length(data[at])
        rest = data[at + 1 : at + length]
        is_whole = len(rest) == length - 1 and all(byte in _CONTINUATION for byte in rest)
        unit = data[at] if length == 1 else data[at] & (0x7F >> length)
        for byte in rest:
            unit = unit << 6 | byte & 0x3F
        is_garbage = length == 1 and unit not in _ASCII
        if is_whole and not is_garbage and unit in _UCS2 and unit not in _SURROGATES:
            units.append(unit)
        at += length
    return units


def _compare_text(left: bytes | None, right: bytes | None) -> int:
    first, second = (left is not None, _ucs2(left)), (right is not None, _ucs2(right))
    return (first > second) - (first < second)


def compare_systemd(left: MenuEntry, right: MenuEntry) -> int:
    """Compare as systemd-boot does; negative where `left` is shown first.

    The id that is compared last has ``.conf`` at its end and no counters.

    Source:
        systemd ``src/boot/boot.c``, ``boot_entry_compare``; the same name in ``src/shared/bootspec.c``.
    """
    order = _sign(left.tries_left == 0, right.tries_left == 0)
    order = order or _sign(left.sort_key is None, right.sort_key is None)
    if not order and left.sort_key is not None:
        order = _compare_text(left.sort_key, right.sort_key)
        order = order or _compare_text(left.machine_id, right.machine_id)
        order = order or -compare_uapi(left.version, right.version)
    order = order or -compare_uapi(left.loader_id, right.loader_id)
    if order or left.tries_left is None or right.tries_left is None:
        return order
    order = -_sign(left.tries_left, right.tries_left)
    return order or _sign(left.tries_done or 0, right.tries_done or 0)


def _shows(entry: MenuEntry) -> bool:
    """It leaves out what has no loader file, and names that start with ``.`` or ``auto-``.

    Source:
        systemd ``src/boot/boot.c``.
    """
    name = entry.file_name.lower()
    if not name.endswith((b".conf", b".efi")) or name.startswith((b".", b"auto-")) or entry.is_hidden:
        return False
    program = entry.linux if entry.linux is not None else entry.uki
    return entry.is_bootable and (program is None or program not in entry.missing)


# By the kernel's name of the machine; others are not built for EFI.
_MACHINES = {
    "x86_64": b"x64",
    "i386": b"ia32",
    "i686": b"ia32",
    "aarch64": b"aa64",
    "armv7l": b"arm",
    "armv8l": b"arm",
    "riscv64": b"riscv64",
    "loongarch64": b"loongarch64",
}


_SUFFIX = _MACHINES.get(os.uname().machine, b"")
PROGRAM_NAMES = (b"EFI/systemd/systemd-boot" + _SUFFIX + b".efi", b"EFI/BOOT/BOOT" + _SUFFIX.upper() + b".EFI")
"""Where `bootctl` installs it."""


def _normalize(path: bytes) -> bytes:
    return path.replace(b"\\", b"/").strip(b"/").lower()


def hides(entry: MenuEntry, variables: LoaderVariables | None, *, is_beside_loader: bool) -> bool:
    """Say whether the entry is for another machine, or starts the loader itself.

    Where the loader does not tell its own path, both places where it is installed count.

    Source:
        systemd ``src/boot/boot.c``, ``boot_entry_add_type1``: any ``architecture`` line that differs, and ``efi`` on
        the loader's own partition.
    """
    text = parse_text(entry.raw)
    machine = _MACHINES.get(os.uname().machine)
    if machine is not None and any(value.lower() != machine for value in text.find_all(b"architecture") if value):
        return True
    if not is_beside_loader:
        return False
    told = variables.image_path if variables is not None else None
    places = [told.encode("utf-8", "replace")] if told else PROGRAM_NAMES
    own = set(map(_normalize, places))
    return any(_normalize(value) in own for value in text.find_all(b"efi"))


def make_image_entry(name: bytes, os_release: bytes) -> MenuEntry | None:
    """Return the entry that systemd-boot makes of a UKI in ``EFI/Linux``; None where it makes none.

    Source:
        systemd ``src/boot/boot.c``, ``boot_entry_add_type2``; ``src/fundamental/bootspec.c``.
    """
    fields: dict[bytes, bytes] = {}
    for line in os_release.partition(b"\0")[0].replace(b"\r", b"\n").split(b"\n"):
        key, separator, value = line.strip(b" \t").partition(b"=")
        if separator and value.strip(b" \t") and not key.startswith(b"#"):
            fields[key.strip(b" \t")] = unquote(value.strip(b" \t"))

    def pick(*keys: bytes) -> bytes | None:
        return next((fields[key] for key in keys if key in fields), None)

    title = pick(b"PRETTY_NAME", b"IMAGE_ID", b"NAME", b"ID")
    if title is None or name.lower().startswith((b".", b"auto-")):
        return None
    counters = parse_counters(name)
    return MenuEntry(
        file_name=name,
        raw=b"",
        digest=parse_artifact_digest(name),
        boot_type=BootType.UKI,
        title=title,
        version=pick(b"IMAGE_VERSION", b"VERSION", b"VERSION_ID", b"BUILD_ID"),
        sort_key=pick(b"IMAGE_ID", b"ID"),
        is_bootable=True,
        tries_left=counters[0] if counters else None,
        tries_done=counters[1] if counters else None,
    )


def _translate_glob(pattern: bytes) -> re.Pattern[bytes]:
    """systemd-boot's globs: ``*``, ``?``, ``[a-z]`` without negation, backslash."""
    out: list[bytes] = []
    i = 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        i += 1
        if char == b"*":
            out.append(b".*")
        elif char == b"?":
            out.append(b".")
        elif char == b"\\" and i < len(pattern):
            out.append(re.escape(pattern[i : i + 1]))
            i += 1
        elif char == b"[" and (end := pattern.find(b"]", i + 1)) > 0:
            inner = pattern[i:end].replace(b"\\", b"\\\\").replace(b"^", b"\\^").replace(b"[", b"\\[")
            out.append(b"[" + inner + b"]")
            i = end + 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile(b"".join(out), re.DOTALL)
    except re.error:
        # A reversed range such as [z-a]; the loader matches nothing with it either.
        return re.compile(rb"(?!)")


def _find_match(override: LoaderOverride, shown: Sequence[MenuEntry]) -> MenuEntry | None:
    glob = _translate_glob(override.value.lower())
    usable = [entry for entry in shown if not (override.skips_exhausted and entry.tries_left == 0)]
    return next((entry for entry in usable if glob.fullmatch(entry.loader_id)), None)


def find_outside(
    images: Sequence[bytes],
    variables: LoaderVariables | None,
    overrides: Sequence[LoaderOverride],
    own: re.Pattern[bytes],
    shown: Sequence[MenuEntry],
) -> Outside:
    """Tell what systemd-boot shows that is no file in ``entries``.

    Where such a thing stands in the order is the loader's own word, ``LoaderEntries`` of the last boot: our entries
    may have other names since, and still sort under the same constant.

    Args:
        images: Names in ``EFI/Linux``.
        variables: The EFI variables.
        overrides: Of this loader. What begins with ``auto-`` only the loader can find: it counts as there unless
            the loader has told that it is not.
        own: File names of ours.
        shown: What it shows by files: it has its place in the order already. An entry that only the loader knows may be
            on a partition that cannot be read here; it counts as there.
    """
    told = [text.lower().encode("utf-8", "replace") for text in (variables.shown if variables is not None else ())]
    present = tuple(name.lower() for name in images if name.lower().endswith(b".efi"))
    named = tuple(
        value for override in overrides if (value := override.value.lower()).startswith(b"auto-") and not told
    )
    known = {entry.loader_id for entry in shown}
    unknown = [name for name in told if strip_counters(name) not in known and not own.fullmatch(name)]
    ids = tuple(dict.fromkeys((*unknown, *present, *named)))
    above = []
    for name in told:
        if own.fullmatch(name):
            break
        above.append(name)
    else:
        above = []
    # A UKI with profiles has one id for each: its file's name, @ and a number.
    candidates = [name for name in above if name in unknown and name.partition(b"@")[0] not in known]
    is_there = (b".conf", *present)
    first = next(
        (name for name in candidates if name.partition(b"@")[0].endswith(is_there) or name.startswith(b"auto-")), None
    )
    return Outside(ids, first)


def parse_loader_conf(raw: bytes, key: bytes = b"default") -> bytes | None:
    """Return the last value of a key of loader.conf that picks an entry.

    Source:
        systemd-boot ``config_defaults_load_from_file``: special values but ``@saved`` are ignored.
    """
    values = [value for value in parse_text(raw).find_all(key) if value]
    return next((v for v in reversed(values) if not v.startswith(b"@") or v.lower() == _SAVED), None)


def replace_loader_conf(raw: bytes, value: bytes, key: bytes = b"default") -> bytes:
    """Return loader.conf with another value where its key is last; all else stays."""
    pattern = rb"(?m)^[ \t]*" + re.escape(key) + rb"[ \t]+([^\r\n \t][^\r\n]*?)[ \t]*$"
    matches = list(re.finditer(pattern, raw.replace(b"\r", b"\n")))
    if not matches:
        return raw
    start, end = matches[-1].span(1)
    return raw[:start] + value + raw[end:]


def _collect_overrides(loader_conf: bytes | None, variables: LoaderVariables | None) -> tuple[LoaderOverride, ...]:
    """Put the overrides in the loader's precedence.

    ``@saved`` stands for the entry that was booted last; its name changes with the set, so that it picks nothing then.

    Source:
        https://systemd.io/BOOT_LOADER_INTERFACE: one-shot, then preferred (variable, file), then default likewise.
    """
    found: dict[OverrideKind, bytes | None] = {
        kind: parse_loader_conf(loader_conf or b"", key) for kind, key in CONF_KEYS.items()
    }
    saved = None
    if variables is not None:
        saved = _encode(variables.entry_last_booted)
        found[OverrideKind.ONE_SHOT] = _encode(variables.entry_oneshot)
        found[OverrideKind.PREFERRED_VARIABLE] = _encode(variables.entry_preferred)
        found[OverrideKind.DEFAULT_VARIABLE] = _encode(variables.entry_default)
    if variables is None or not variables.features & _FEATURE_PREFERRED:
        found[OverrideKind.PREFERRED_VARIABLE] = found[OverrideKind.PREFERRED_CONF] = None
    overrides = []
    for kind in OverrideKind:
        value = found.get(kind)
        is_saved = value is not None and value.lower() == _SAVED
        value = saved if is_saved else value
        if value:
            overrides.append(LoaderOverride(kind, value, is_saved=is_saved))
    return tuple(overrides)


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "replace")


def _explain_first(entry: MenuEntry) -> str:
    return "first by file name" if entry.sort_key is None else "first by sort-key"


def find_version_without_uki_key(info: str | None) -> str | None:
    """Return the version of the running systemd-boot where it does not know the key ``uki``, else None."""
    running = _VERSION.match(info or "")
    return running[1] if running is not None and int(running[1]) < _FIRST_WITH_UKI_KEY else None


def find_counting(info: str | None) -> BootCounting:
    """Say how a version counts boots; of one that is not known only what all of them do.

    Source:
        systemd ``src/boot/boot.c``: up to 257 every kind of entry is counted, then ``LOADER_TYPE_BUMP_COUNTERS`` leaves
        ``efi`` out and ``uki`` is new, and so is ``reboot-on-error``; up to 256 an entry's id is its file's name;
        measured with the versions in ``tests/sdboot/answers.json``.
    """
    running = _VERSION.match(info or "")
    if running is None:
        return BootCounting(frozenset({b"linux"}), has_counters_in_ids=True, needs_power_cycle=True)
    version = int(running[1])
    return BootCounting(
        frozenset({b"linux", b"uki" if version >= _FIRST_WITH_UKI_KEY else b"efi"}),
        has_counters_in_ids=version < _FIRST_WITHOUT_COUNTERS_IN_IDS,
        needs_power_cycle=version < _FIRST_WITH_RESET,
    )


RULE = LoaderRule(
    name="systemd-boot",
    home=b"loader",
    settings=b"loader.conf",
    compare=compare_systemd,
    shows=_shows,
    identify=lambda entry: entry.loader_id,
    collect_overrides=_collect_overrides,
    find_match=_find_match,
    explain_first=_explain_first,
    choose_command="bootctl set-default {}",
    reads_variables=True,
    counts_boots=True,
    image_directory=b"EFI/Linux",
    make_image_entry=make_image_entry,
    find_outside=find_outside,
    hides=hides,
)

RECORD = LoaderRecord(
    loader=Loader.SYSTEMD_BOOT,
    info="systemd-boot",
    rules=(RULE,),
    is_on_esp=True,
    kernel_directory=b"EFI/Linux",
    status_name="systemd",
    reads_extended_boot=True,
    find_version_without_uki_key=find_version_without_uki_key,
    find_counting=find_counting,
    counts_in=CountsIn.NAMES,
    program_names=PROGRAM_NAMES,
    package_directories=("usr/lib/systemd/boot/efi",),
)
