"""Completions of bash, zsh and fish: verbs, options, and what stands behind them (files, deployments, words)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manual.tree import Argument, Verb

# The deployments of the host: digests as `status` shows them, shortened. Both kinds of host.
_DEPLOYMENTS = r"""command bootc-fast "$@" status --json 2>/dev/null |
    sed -n 's/^ *"\(verity\|checksum\)": "\([0-9a-f]\{16\}\)[0-9a-f]*".*/\2/p' | sort -u"""

# What both bash and zsh understand; fish has a language of its own.
_LOOKUPS = r"""_bootc_fast_commands() {
    case $1 in
@COMMANDS@
    esac
}
_bootc_fast_options() {
    case $1 in
@OPTIONS@
    esac
}
# What stands behind an option, or as an argument ("").
_bootc_fast_values() {
    case "$1 $2" in
@VALUES@
    esac
}
_bootc_fast_deployments() {
    @DEPLOYMENTS@
}
"""

_BASH = r"""# bash completion for bootc-fast; made by tools/make-docs
@LOOKUPS@_bootc_fast() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb="" option="" word i kind root=()
    # "--to=x" is three words to bash.
    [[ $cur == "=" ]] && cur=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == "=" ]] && continue
        if [[ -n $option ]]; then
            [[ $option == --root ]] && root=(--root "$word")
            option=""
        elif [[ $word == -* ]]; then
            [[ -n $(_bootc_fast_values "$verb" "$word") ]] && option=$word
        elif [[ " $(_bootc_fast_commands "$verb") " == *" $word "* ]]; then
            verb="${verb:+$verb }$word"
        fi
    done
    COMPREPLY=()
    if [[ -z $option && $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_bootc_fast_options "$verb")" -- "$cur")
        return
    fi
    kind=$(_bootc_fast_values "$verb" "$option")
    if [[ -z $option && -n $(_bootc_fast_commands "$verb") ]]; then
        kind="words $(_bootc_fast_commands "$verb")"
    fi
    case $kind in
        file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        dir) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        deployment)
            mapfile -t COMPREPLY < <(compgen -W "previous booted $(_bootc_fast_deployments "${root[@]}")" -- "$cur") ;;
        words\ *) mapfile -t COMPREPLY < <(compgen -W "${kind#words }" -- "$cur") ;;
    esac
}
complete -F _bootc_fast bootc-fast
"""

_ZSH = r"""#compdef bootc-fast
# zsh completion for bootc-fast; made by tools/make-docs
@LOOKUPS@_bootc-fast() {
    local verb="" option="" word kind i
    local -a root names
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        if [[ -n $option ]]; then
            [[ $option == --root ]] && root=(--root "$word")
            option=""
        elif [[ $word == -*=* ]]; then
            [[ $word == --root=* ]] && root=("$word")
        elif [[ $word == -* ]]; then
            [[ -n $(_bootc_fast_values "$verb" "$word") ]] && option=$word
        elif [[ " $(_bootc_fast_commands "$verb") " == *" $word "* ]]; then
            verb="${verb:+$verb }$word"
        fi
    done
    word=${words[CURRENT]}
    if [[ -z $option && $word == --*=* ]]; then
        option=${word%%=*}
        compset -P '*='
    elif [[ -z $option && $word == -* ]]; then
        names=(${=$(_bootc_fast_options "$verb")})
        compadd -a names
        return
    fi
    kind=$(_bootc_fast_values "$verb" "$option")
    if [[ -z $option && -n $(_bootc_fast_commands "$verb") ]]; then
        kind="words $(_bootc_fast_commands "$verb")"
    fi
    case $kind in
        file) _files ;;
        dir) _files -/ ;;
        deployment) names=(previous booted ${=$(_bootc_fast_deployments "${root[@]}")}); compadd -a names ;;
        words\ *) names=(${=kind#words }); compadd -a names ;;
    esac
}
if [[ ${funcstack[1]} == _bootc-fast ]]; then
    _bootc-fast "$@"
else
    compdef _bootc-fast bootc-fast
fi
"""

_FISH = r"""# fish completion for bootc-fast; made by tools/make-docs
function __bootc_fast_commands
    switch "$argv[1]"
@COMMANDS@
    end
end
# Whether the command line is at this verb.
function __bootc_fast_at
    set -l verb
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; and continue
        contains -- $word (string split ' ' -- (__bootc_fast_commands "$verb")); and set -a verb $word
    end
    test "$verb" = "$argv[1]"
end
function __bootc_fast_deployments
    set -l root
    set -l words (commandline -opc)
    for i in (seq (count $words))
        string match -q -- '--root=*' $words[$i]; and set root $words[$i]
        test "$words[$i]" = --root; and set root --root=$words[(math $i + 1)]
    end
    printf '%s\n' previous booted
    command bootc-fast $root status --json 2>/dev/null |
        sed -n 's/^ *"\(verity\|checksum\)": "\([0-9a-f]\{16\}\)[0-9a-f]*".*/\2/p' | sort -u
end
complete -c bootc-fast -f
@LINES@
"""


def make_bash(tree: Verb) -> str:
    """The file for bash."""
    return _fill(_BASH, tree)


def make_zsh(tree: Verb) -> str:
    """The file for zsh."""
    return _fill(_ZSH, tree)


def _verbs(tree: Verb) -> Iterator[tuple[str, Verb]]:
    """Each command with the words it is typed as; once more under each alias."""
    yield "", tree
    for verb in tree.verbs:
        for name in (verb.words[0], *verb.aliases):
            yield name, verb
            yield from ((f"{name} {one.words[-1]}", one) for one in verb.verbs)


def _names(verb: Verb) -> str:
    return " ".join(name for one in verb.verbs for name in (one.words[-1], *one.aliases))


def _arguments(tree: Verb, verb: Verb) -> list[Argument]:
    known = {name for one in verb.arguments for name in one.names}
    return [*verb.arguments, *(one for one in tree.arguments if not known & set(one.names) and one.names)]


def _value(argument: Argument) -> str:
    return f"words {' '.join(argument.words)}" if argument.kind == "words" else argument.kind


def _fill(template: str, tree: Verb) -> str:
    commands, options, values = [], [], []
    for name, verb in _verbs(tree):
        arguments = _arguments(tree, verb)
        if verb.verbs:
            commands.append(f"        '{name}') echo '{_names(verb)}' ;;")
        options.append(f"        '{name}') echo '{' '.join(one for each in arguments for one in each.names)}' ;;")
        for argument in arguments:
            takers = argument.names or ("",) if argument.metavar else ()
            values += [f"        '{name} {option}') echo '{_value(argument)}' ;;" for option in takers]
    made = (
        template.replace("@LOOKUPS@", _LOOKUPS)
        .replace("@COMMANDS@", "\n".join(commands))
        .replace("@OPTIONS@", "\n".join(options))
    )
    # Of several positional arguments the first one's kind is offered for all.
    return made.replace("@VALUES@", "\n".join(values)).replace("@DEPLOYMENTS@", _DEPLOYMENTS)


def make_fish(tree: Verb) -> str:
    """The file for fish."""
    commands, lines = [], []
    for name, verb in _verbs(tree):
        if verb.verbs:
            commands.append(f"        case {_quote(name)}\n            echo {_quote(_names(verb))}")
        for one in verb.verbs:
            lines += [
                f"complete -c bootc-fast -n {_at(name)} -a {word} -d {_quote(one.summary)}"
                for word in (one.words[-1], *one.aliases)
            ]
        for argument in _arguments(tree, verb):
            lines.append(f"complete -c bootc-fast -n {_at(name)}{_fish_argument(argument)}")
    return _FISH.replace("@COMMANDS@", "\n".join(commands)).replace("@LINES@", "\n".join(lines))


def _at(name: str) -> str:
    return _quote(f"__bootc_fast_at {_quote(name)}")


def _fish_argument(argument: Argument) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in argument.names)
    deployments = " -a '(__bootc_fast_deployments)'"
    takes = {"file": " -F", "dir": " -a '(__fish_complete_directories)'", "deployment": deployments}
    value = f" -a {_quote(' '.join(argument.words))}" if argument.kind == "words" else takes.get(argument.kind, "")
    # With -x no files are offered beside it.
    needs = "" if not argument.names or not argument.metavar else " -r" if argument.kind == "file" else " -x"
    return f"{names}{needs}{value} -d {_quote(argument.text)}"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
