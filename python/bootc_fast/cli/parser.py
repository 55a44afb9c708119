"""The parser: one line a command here, its arguments in its own module, imported when the command is used.

A command module ``cmd_<name>.py`` has ``add_arguments(parser)``, which fills the command's own parser, and
``run(arguments) -> int``, which returns the exit code and lets errors leave as exceptions.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from bootc_fast import __version__
from bootc_fast.cli.help_text import HelpFormatter

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn


# argparse asks gettext for each of its words, 54 times a start, and no catalogue has any of ours.
vars(argparse)["_"] = str


class Command:
    """One verb.

    Args:
        name: As typed.
        module: Module under ``bootc_fast.cli``.
        summary: One line, shown by ``--help`` without importing the module.
        aliases: Other names.
        prefix: Arguments put before those typed, for a verb that stands for another one with an option.
        fill: The module's function that adds the arguments.
    """

    __slots__ = ("aliases", "fill", "module", "name", "prefix", "summary")

    name: str
    module: str
    summary: str
    aliases: tuple[str, ...]
    prefix: tuple[str, ...]
    fill: str

    def __init__(
        self,
        name: str,
        module: str,
        summary: str,
        *,
        aliases: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        fill: str = "add_arguments",
    ) -> None:
        self.name = name
        self.module = module
        self.summary = summary
        self.aliases = aliases
        self.prefix = prefix
        self.fill = fill


COMMANDS = (
    Command("status", "cmd_status", "show what is booted, staged and kept, and what boots next"),
    Command(
        "composefs-finalize-staged",
        "cmd_finalize",
        "merge /etc into the staged deployment and make it the next boot",
        aliases=("finalize",),
    ),
    Command("rollback", "cmd_rollback", "boot the previous deployment next, or undo that"),
    Command("unstage", "cmd_unstage", "drop the staged update"),
    Command("hold", "cmd_hold", "keep the staged update from being applied at shutdown, or release it"),
    Command("pin", "cmd_pin", "keep a deployment bootable, whatever is updated"),
    Command("unpin", "cmd_pin", "let a pinned deployment go with the next update", prefix=("--undo",)),
    Command("forget-failure", "cmd_forget_failure", "take a deployment that failed its trial for any other again"),
    Command("health", "cmd_health", "run the health checks of what runs"),
    Command("doctor", "cmd_doctor", "find and mend what power cuts leave on the boot partition"),
    Command("soft-reboot", "cmd_soft_reboot", "enter what boots next without the firmware, or undo that"),
    Command("etc", "cmd_etc", "compare and merge /etc trees"),
    Command("config-diff", "cmd_etc", "show what was changed in /etc, as 'etc diff' does", fill="add_config_diff"),
    Command("policy", "cmd_policy", "check the policy files, and say what they mean"),
    Command("self-test", "cmd_self_test", "say what an image lacks, in its build"),
    Command("digest", "cmd_digest", "print fs-verity digests of files"),
    Command("image", "cmd_image", "list, dump, read and verify EROFS images"),
    Command("lab", "cmd_lab", "make and drive a whole bootc host in a directory"),
    Command("boot-complete", "cmd_boot_complete", "fail once if the last finalize failed (run by a unit at boot)"),
)

EPILOG = """\
examples:
  bootc-fast status
  bootc-fast composefs-finalize-staged --dry-run
  bootc-fast rollback
  bootc-fast lab demo

exit codes:
"""


class CommandParser(argparse.ArgumentParser):
    """A command's parser that imports its module and takes its arguments when it is first used."""

    def __init__(self, *args: Any, command: Command | None = None, **kwargs: Any) -> None:  # noqa: ANN401 argparse's own
        kwargs.setdefault("formatter_class", HelpFormatter)
        # An abbreviation that works today is ambiguous tomorrow; units and scripts carry options for years.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.command = command
        self.name: str = command.name if command else ""
        self.given: Sequence[str] = ()

    def fill(self) -> None:
        """Import the command's module and add its arguments; does nothing the second time."""
        if self.command is None:
            return
        command, self.command = self.command, None
        module = import_module(f"bootc_fast.cli.{command.module}")
        getattr(module, command.fill)(self)
        add_global_options(self, default=argparse.SUPPRESS)
        self.set_defaults(run=module.run)

    def parse_known_args(  # type: ignore[override]  # the overloads of typeshed differ in the namespace's type only
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Fill the parser, then parse.

        What a command does not know is refused by its own parser, which alone can say what was meant.
        """
        prefix = self.command.prefix if self.command else ()
        self.fill()
        given = self.given = sys.argv[1:] if args is None else list(args)
        if not given and self._lists_commands():
            # Nothing is asked for: all that can be asked for, and the exit code of a wrong command line.
            self._print_message(self.format_help(), sys.stderr)
            sys.exit(2)
        found, unknown = super().parse_known_args([*prefix, *given], namespace)
        if unknown:
            self._refuse(unknown)
        return found, unknown

    def _lists_commands(self) -> bool:
        return any(isinstance(action, argparse._SubParsersAction) for action in self._actions)  # noqa: SLF001 no public way

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        from bootc_fast.text import did_you_mean

        options = [word for word in unknown if word.startswith("-")]
        hint = did_you_mean(options[0].partition("=")[0], self._option_string_actions) if options else ""
        self.error(f"{self.prog} takes no {' '.join(unknown)}", hint=hint)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        from bootc_fast.text import did_you_mean

        known, word = [str(one) for one in action.choices], str(value)
        hint = did_you_mean(word, known)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 no public way
            self.error(f"{self.prog} has no command {word!r}", hint=hint)
        self.error(
            f"{'/'.join(action.option_strings) or action.metavar}: {word!r} is none of {', '.join(known)}", hint=hint
        )

    def _get_value(self, action: argparse.Action, arg_string: str) -> object:
        # Before it is converted: of what cannot be, argparse says the type's name only.
        is_command = action.nargs == argparse.PARSER  # given what follows the command, too
        if action.choices is not None and not is_command and arg_string not in map(str, action.choices):
            self._check_value(action, arg_string)
        return super()._get_value(action, arg_string)

    def format_help(self) -> str:
        """Put in what most commands' starts need not build."""
        epilog = self.epilog
        if epilog is EPILOG:
            from bootc_fast.errors import EXIT_CODES

            self.epilog = epilog + "".join(f"  {code:>2}  {meaning}\n" for code, meaning in EXIT_CODES.items())
        elif self.name:
            from bootc_fast.cli.exit_status import EXIT_STATUS

            codes = ", ".join(map(str, sorted(EXIT_STATUS[self.name].codes)))
            self.epilog = f"{epilog or ''}\nexit codes: {codes}\n('bootc-fast --help' says what they mean)\n"
        try:
            return super().format_help()
        finally:
            self.epilog = epilog

    def error(self, message: str, *, hint: str = "") -> NoReturn:
        """Print like every other error of this program, and exit with 2."""
        from bootc_fast.cli.failure import encode_error, want_json_of
        from bootc_fast.cli.render import print_error, print_json, write_stderr
        from bootc_fast.errors import UsageError

        where = f"'{self.prog} --help'"
        hint = f"{hint} ({where} lists what there is)" if hint else f"try {where}"
        error = UsageError(f"reading the command line: {message}", hint=hint)
        write_stderr(self.format_usage())
        print_error(error)
        if want_json_of(self.given):
            print_json(encode_error(error))
        sys.exit(error.exit_code)


def add_global_options(parser: argparse.ArgumentParser, *, default: object = None) -> None:
    """Add the options that every command takes, before or after its name."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        default="/" if default is None else default,
        help="work on the host laid out under DIR; nothing outside it is touched",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0 if default is None else default,
        help="tell each step on stderr; twice: a traceback with errors",
    )


def build_parser(*, complete: bool = False) -> argparse.ArgumentParser:
    """Build the whole parser.

    Args:
        complete: Import every command's module at once, as man pages and shell completions need.

    Returns:
        A parser whose result has ``run``, ``root``, ``verbose`` and the command's own arguments.
    """
    parser = CommandParser(
        prog="bootc-fast",
        description="Finishes and undoes updates of image-based Linux hosts that bootc installed.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"bootc-fast {__version__}")
    add_global_options(parser)
    add: Callable[..., CommandParser] = parser.add_subparsers(
        dest="command_name", metavar="COMMAND", required=True, parser_class=CommandParser
    ).add_parser
    for command in COMMANDS:
        child = add(command.name, aliases=command.aliases, help=command.summary, command=command)
        child.description = f"{command.summary[0].upper()}{command.summary[1:]}."
        if complete:
            child.fill()
    return parser
