"""Completions, tried in the shells themselves: verbs, options, files, and the values that an option takes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bootc_fast import lab
from bootc_fast.cli.parser import COMMANDS

ROOT = Path(__file__).parents[2]
SHELLS = ["bash", "zsh", "fish"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The completions, a command to ask for deployments, a host, and a few files."""
    out = tmp_path_factory.mktemp("completions")
    subprocess.run([sys.executable, str(ROOT / "tools/make-docs"), str(out / "share")], check=True)
    command = out / "bin/bootc-fast"
    command.parent.mkdir()
    run = f"PYTHONPATH={ROOT / 'python'} exec {shlex.quote(sys.executable)} -m bootc_fast"
    command.write_text(f'#!/bin/sh\n{run} "$@"\n')
    command.chmod(0o755)
    (out / "work/a directory").mkdir(parents=True)
    (out / "work/image.erofs").touch()
    host = lab.make_host(out / "work/host", files={"motd": "1"})
    lab.stage_files(host, {"motd": "2"})
    return out


def _bash(place: Path, line: str) -> str:
    # As readline splits it: an equals sign is a word of its own.
    words = [part for word in line.split(" ") for part in _split(word)]
    array = " ".join(shlex.quote(word) for word in words)
    return (
        f"source {place}/share/bash-completion/completions/bootc-fast\n"
        f"COMP_WORDS=({array}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE={shlex.quote(line)}\n"
        "COMP_POINT=${#COMP_LINE}\n"
        "complete -p bootc-fast >/dev/null || exit 9\n"
        '_bootc_fast bootc-fast "${COMP_WORDS[COMP_CWORD]}" ""\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )


def _split(word: str) -> list[str]:
    name, equals, value = word.partition("=")
    return [name, "=", value] if equals and word.startswith("--") else [word]


# A terminal of zsh's own, in which TAB is pressed; what is offered is listed between marks.
_ZSH = r"""
zmodload zsh/zpty
zpty -b z "env -i PATH=$PATH TERM=dumb HOME=$HOME FPATH=$FPATH zsh -f -i"
zpty -w z 'PROMPT=READY; PS2=; unsetopt zle_bracketed_paste beep; autoload -Uz compinit; compinit -u -D
  zstyle ":completion:*" list-prompt ""; zstyle ":completion:*" menu no; LISTMAX=1000
  compadd() { if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)* ]]; then builtin compadd "$@"; return; fi
    local -a found; builtin compadd -O found "$@"; _shown+=("${found[@]}"); builtin compadd "$@" }
  typeset -ga _shown
  show() { _shown=(); _main_complete; print -rn -- "<BEGIN>${(F)_shown}<END>"
    compstate[insert]=""; compstate[list]="" }
  zle -C show-them complete-word show; bindkey "^I" show-them; print SET-UP'
zpty -r -m z out '*SET-UP*' || exit 8
zpty -w -n z "$1"$'\t'
zpty -r -m z out '*<END>*' || exit 7
print -r -- ${${out##*<BEGIN>}%%<END>*}
zpty -d z
"""


def _complete(place: Path, shell: str, line: str) -> list[str]:
    """What a shell offers at the end of a line, in a directory with files."""
    environment = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "LC_ALL": "C.UTF-8"}
    if shell == "bash":
        argv = ["bash", "--norc", "-c", _bash(place, line)]
    elif shell == "zsh":
        functions = subprocess.run(["zsh", "-fc", "print -r -- $FPATH"], capture_output=True, text=True, check=True)
        environment["FPATH"] = f"{place}/share/zsh/vendor-completions:{functions.stdout.strip()}"
        argv = ["zsh", "-f", "-c", _ZSH, "zsh", line]
    else:
        source = f"source {place}/share/fish/vendor_completions.d/bootc-fast.fish"
        argv = ["fish", "--no-config", "-c", f"{source}; complete -C {shlex.quote(line)}"]
    done = subprocess.run(
        argv, capture_output=True, text=True, env=environment, cwd=place / "work", check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    text = done.stdout.replace("\r", "").replace("\\ ", " ")
    lines = [one.strip().partition("\t")[0].rstrip("/") for one in text.splitlines()]
    return [one.removeprefix(line.rpartition(" ")[2].partition("=")[0] + "=") if "=" in line else one for one in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_is_offered_and_nothing_else(place: Path, shell: str) -> None:
    names = {name for command in COMMANDS for name in (command.name, *command.aliases)}
    assert set(_complete(place, shell, "bootc-fast ")) == names


@pytest.mark.parametrize("shell", SHELLS)
def test_sub_commands_are_offered_where_they_are(place: Path, shell: str) -> None:
    assert set(_complete(place, shell, "bootc-fast image ")) == {"ls", "dump", "cat", "verify"}
    assert set(_complete(place, shell, "bootc-fast --root host lab ")) >= {"create", "stage", "boot"}
    # It has none, whatever `etc` has: files are what it takes.
    assert set(_complete(place, shell, "bootc-fast config-diff ")) == {"a directory", "image.erofs", "host"}


@pytest.mark.parametrize("shell", SHELLS)
def test_options_are_offered(place: Path, shell: str) -> None:
    found = set(_complete(place, shell, "bootc-fast rollback --"))
    assert {"--to", "--dry-run", "--soft-reboot", "--root", "--keep-staged"} <= found
    assert "--on-conflict" not in found
    assert _complete(place, shell, "bootc-fast rollback --dry") == ["--dry-run"]


@pytest.mark.parametrize("shell", SHELLS)
def test_files_are_offered_where_files_are_taken(place: Path, shell: str) -> None:
    assert set(_complete(place, shell, "bootc-fast digest ")) == {"a directory", "image.erofs", "host"}
    assert _complete(place, shell, "bootc-fast image ls im") == ["image.erofs"]
    assert _complete(place, shell, "bootc-fast finalize --report im") == ["image.erofs"]
    assert set(_complete(place, shell, "bootc-fast --root ")) == {"a directory", "host"}


@pytest.mark.parametrize("shell", SHELLS)
def test_values_are_offered(place: Path, shell: str) -> None:
    assert set(_complete(place, shell, "bootc-fast finalize --on-conflict ")) == {"fail", "current", "new"}
    assert set(_complete(place, shell, "bootc-fast rollback --soft-reboot=")) == {"auto", "required", "kexec"}
    assert set(_complete(place, shell, "bootc-fast status --bootloader g")) == {"grub", "grub-cc"}
    assert set(_complete(place, shell, "bootc-fast status --format ")) == {"human", "json", "yaml"}


@pytest.mark.parametrize("shell", SHELLS)
def test_deployments_are_those_of_the_host(place: Path, shell: str) -> None:
    host = lab.open_lab(place / "work/host")
    digests = {digest[:16] for digest in host.deployments}
    assert len(digests) == 2
    found = set(_complete(place, shell, "bootc-fast --root host rollback --to "))
    assert found == {"previous", "booted", *digests}
    one = min(digests)
    assert _complete(place, shell, f"bootc-fast --root host rollback --to={one[:12]}") == [one]
