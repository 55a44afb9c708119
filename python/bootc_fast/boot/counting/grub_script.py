"""The script with which GRUB counts the boots of what is on trial, and the block in ``custom.cfg`` that runs it.

GRUB's environment block has variables of ours (``loaders.grub_trial``). A name that GRUB does not know makes it boot
its first entry, so that a publication that is cut after the variables were written, and before the entries, boots what
it did before.

Source:
    Spec trial.md, "Counting"; what GRUB 2.12 and 2.14 do with it: ``tests/vm/test_grub_counting.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.loaders.grub_commands import Command, has_open_end, list_commands
from bootc_fast.boot.loaders.grub_fallback import remove_fallback, render_fallback
from bootc_fast.boot.loaders.grub_trial import FALLBACK, PLACE, TRIAL, TRIES

if TYPE_CHECKING:
    from bootc_fast.boot.loaders.entry import MenuEntry

MAX_TRIES = 9
"""Most tries that a script counts: it has a line for each."""

SCRIPT = b"bootcfast.cfg"
"""The script's name, beside ``grub.cfg``: 13 characters, so that a FAT directory has room for it."""

CUSTOM = b"custom.cfg"
MAX_CONFIG_BYTES = 1 << 20
"""Largest ``grub.cfg`` or ``custom.cfg`` that is read."""

_MARK = b"# bootc-fast: boot counting, format "
_FORMAT = 1
_HEAD = """\
{mark}{format}
# Written by bootc-fast, which replaces it as a whole; docs/trial.md says what it does, and how to remove it.
unset {trial}
unset {fallback}
unset {place}
unset {tries}
load_env -f "${{config_directory}}/grubenv" {trial} {fallback} {place} {tries}
if [ -n "${{{trial}}}" -a "${{boot_once}}" != "true" ]; then
  unset next_entry
  load_env -f "${{config_directory}}/grubenv" next_entry
  # Whatever goes wrong from here on, what was good boots.
  if [ -n "${{{fallback}}}" ]; then
    set default="${{{fallback}}}"
  elif [ -n "${{{place}}}" ]; then
    set default="${{{place}}}"
  fi
  if [ -n "${{next_entry}}" ]; then
    # Somebody's choice for one boot, which this grub.cfg has not heeded: once, and no try is spent.
    set bootc_fast_once="${{next_entry}}"
    set next_entry=
    if save_env -f "${{config_directory}}/grubenv" next_entry; then
      set default="${{bootc_fast_once}}"
    fi
  else
    set bootc_fast_left=
"""
_STEP = """\
    {word} [ "${{{tries}}}" = "{number}" ]; then
      set bootc_fast_left={left}
"""
_TAIL = """\
    fi
    if [ -n "${{bootc_fast_left}}" ]; then
      set {tries}="${{bootc_fast_left}}"
      # Not counted, not tried.
      if save_env -f "${{config_directory}}/grubenv" {tries}; then
        set default="${{{trial}}}"
        if [ -n "${{{place}}}" ]; then
          # For what cannot be loaded: GRUB takes a place here, and no name.
          set fallback="${{{place}}}"
        fi
      fi
    fi
  fi
fi
"""

_BEGIN, _END = b"### BEGIN bootc-fast ###\n", b"### END bootc-fast ###\n"
_BLOCK = (
    _BEGIN
    + b"# Boot counting, written by bootc-fast; docs/trial.md says how to remove it. It has to come last.\n"
    + b'if [ -f "${config_directory}/bootcfast.cfg" ]; then\n'
    + b'  source "${config_directory}/bootcfast.cfg"\n'
    + b"fi\n"
    + _END
)
# Commands after which a script is not read any further, or not by this GRUB.
_LEAVES = frozenset({b"return", b"exit", b"configfile", b"normal", b"normal_exit", b"boot", b"halt", b"reboot"})


def render_script(tries: int) -> bytes:
    """Return the script for a number of tries.

    It stands aside where nothing is on trial, and where `boot_once` says that somebody's choice for one boot is under
    way. It has no need of the module ``increment``, which not every GRUB has.

    Args:
        tries: From 1 to `MAX_TRIES`; a counter that is no number from 1 to it counts as used up.

    Raises:
        ValueError: Out of range.
    """
    if not 1 <= tries <= MAX_TRIES:
        raise ValueError(f"GRUB counts from 1 to {MAX_TRIES} tries, not {tries}")
    names = {
        "mark": _MARK.decode(),
        "format": _FORMAT,
        "trial": TRIAL.decode(),
        "fallback": FALLBACK.decode(),
        "place": PLACE.decode(),
        "tries": TRIES.decode(),
    }
    steps = [
        _STEP.format(word="if" if number == tries else "elif", number=number, left=number - 1, **names)
        for number in range(tries, 0, -1)
    ]
    return "".join((_HEAD.format(**names), *steps, _TAIL.format(**names))).encode()


def is_script(raw: bytes) -> bool:
    """Say whether a file is such a script, of any format and number of tries, or what a power cut left of one."""
    return raw.startswith(_MARK) or not raw.strip(b"\0")


def add_block(custom: bytes | None) -> bytes:
    """Return ``custom.cfg`` with our block as the last thing in it; what is not ours stays byte for byte.

    Args:
        custom: As it is; None where there is none.

    Raises:
        ValueError: Why GRUB would not come to the block, or that the one that is there is not as it was written.
    """
    return _append(remove_block(custom or b""), _BLOCK)


def put_fallback(custom: bytes | None, entry: MenuEntry | None) -> bytes | None:
    """Return ``custom.cfg`` with a fallback entry before our block, or without any; what is not ours stays.

    Args:
        custom: As it is; None where there is none.
        entry: A menuentry of ``user.cfg``, which is copied; None takes the fallback away.

    Returns:
        None where there is no file, and none is needed.

    Raises:
        ValueError: Why GRUB would not come to it, that the entry's name cannot be chosen, or that what is there of ours
            is not as it was written.
    """
    if custom is None and entry is None:
        return None
    before = custom or b""
    rest = remove_block(remove_fallback(before))
    if entry is not None:
        rest = _append(rest, render_fallback(entry))
    return add_block(rest) if has_block(before) else rest


def _append(custom: bytes, text: bytes) -> bytes:
    """Raises ValueError: why GRUB would not come to what is put behind it."""
    if has_open_end(custom):
        raise ValueError("it ends inside of a quote, a block or an if")
    leaving = next((command.name for command in list_commands(custom) if command.name in _LEAVES), None)
    if leaving is not None:
        raise ValueError(f"GRUB may leave it before its end, at `{leaving.decode()}`")
    gap = b"" if not custom or custom.endswith(b"\n") else b"\n"
    return custom + gap + text


def remove_block(custom: bytes) -> bytes:
    """Return ``custom.cfg`` without our block.

    Raises:
        ValueError: There is a block, and it is not as it was written.
    """
    rest = custom.replace(_BLOCK, b"", 1)
    if _BEGIN.strip() in rest or _END.strip() in rest:
        raise ValueError("the block of bootc-fast in it was changed: remove it, from its BEGIN to its END")
    return rest


def has_block(custom: bytes) -> bool:
    """Say whether our block is there, as it was written."""
    return _BLOCK in custom


def sets_default(command: Command) -> bool:
    """Say whether a command chooses what boots."""
    assigned = command.words[1:] if command.name == b"set" else command.words[:1]
    return any(word.startswith(b"default=") for word in assigned)
