"""``bootc-fast etc diff`` and ``etc merge``: on the host's own trees, or on any directories and images."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.cli.failure import encode_error
from bootc_fast.cli.options import add_on_conflict, parse_choice
from bootc_fast.cli.parser import add_global_options
from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_json, print_lines, write_stdout
from bootc_fast.errors import EtcConflictError, FileSystemError, UsageError
from bootc_fast.events import StepStarted
from bootc_fast.text import reason_of

if TYPE_CHECKING:
    from bootc_fast.etc.merge import EtcDiff, EtcPlan
    from bootc_fast.etc.trees import EtcSource
    from bootc_fast.events import EventSink
    from bootc_fast.flows.host_etc import Trees
    from bootc_fast.types import EtcOperation, EtcReport

_ABOUT = """
Without directories, it works on this host (or the one of --root): the booted image, /etc, and the staged image.
"""
DIFF_EPILOG = f"""\
examples:
  bootc-fast etc diff
  bootc-fast etc diff ssh /etc/fstab --patch
  bootc-fast etc diff --patch=new >image.patch
  bootc-fast etc diff --pristine /usr/etc --current /etc --patch
{_ABOUT}
marks of a diff:
  A  added here
  M  modified here
  D  deleted here
"""
MERGE_EPILOG = f"""\
examples:
  bootc-fast etc merge --dry-run
  bootc-fast etc merge --pristine old.erofs --current /etc --new new.erofs --objects objects --into result
{_ABOUT}
marks of a merge:
  K  kept: the change made here
  D  deleted here, and stays so
  I  image change ignored: the version here wins
  N  new from the image, in a directory that was deleted here
  C  conflict
  L  link that leads nowhere in the new image
  W  warning
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = "examples:\n  bootc-fast etc diff\n  bootc-fast etc merge --dry-run\n"
    commands = parser.add_subparsers(dest="etc_command", metavar="COMMAND", required=True)
    summary = "show what was changed in /etc, and what the next merge makes of it"
    add_config_diff(commands.add_parser("diff", help=summary))
    merge = commands.add_parser("merge", help="merge the changes into the new image's /etc")
    merge.description = "Merges the changes made in /etc into the new image's /etc."
    merge.epilog = MERGE_EPILOG
    _add_trees(merge)
    merge.set_defaults(run_etc=_run_merge, etc_command="merge")
    merge.add_argument("--into", metavar="R", type=Path, help="directory that becomes exactly the result")
    add_on_conflict(merge)
    merge.add_argument("--dry-run", action="store_true", help="only list what would be done")
    add_global_options(merge, default=argparse.SUPPRESS)


def add_config_diff(diff: argparse.ArgumentParser) -> None:
    """Add the arguments of ``etc diff``, which is a verb of its own, too."""
    diff.description = "Shows what was changed in /etc, and what the next merge makes of it."
    diff.epilog = DIFF_EPILOG
    _add_trees(diff)
    diff.set_defaults(run_etc=_run_diff, etc_command="diff", more_paths=[])
    diff.add_argument("paths", nargs="*", metavar="PATH", help="only these files and directories of /etc")
    diff.add_argument(
        "--patch",
        nargs="?",
        action=_Patch,
        metavar="current|new",
        help="add unified diffs of text files: of what was changed here (the default) or by the new image",
    )
    diff.add_argument("--exit-code", action="store_true", help="exit with 1 if anything was changed")
    if diff.prog.endswith(" diff"):
        add_global_options(diff, default=argparse.SUPPRESS)


class _Patch(argparse.Action):
    """``--patch``, ``--patch=new``; in ``--patch PATH`` the path is a path."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Take the side; a word that is none goes to the paths."""
        del parser, option_string
        is_side = values in ("current", "new")
        namespace.patch = values if is_side else "current"
        if values is not None and not is_side:
            namespace.more_paths = [*namespace.more_paths, values]


def _add_trees(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pristine", metavar="P", type=Path, help="/etc as the old image has it: a directory or an image"
    )
    parser.add_argument("--current", metavar="C", type=Path, help="/etc as it is now: a directory")
    parser.add_argument("--new", metavar="N", type=Path, help="/etc as the new image has it: a directory or an image")
    parser.add_argument("--objects", metavar="DIR", type=Path, help="where the images' file contents are")
    parser.add_argument(
        "--subdir", metavar="PATH", default="etc", help="/etc's place in an image (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-command."""
    from bootc_fast.cli.runtime import run_async

    with show_progress(arguments, has_lines=False) as on_event:
        # The whole; what takes long in it has steps of its own.
        on_event(StepStarted("compare", "Comparing /etc"))
        code: int = run_async(lambda: arguments.run_etc(arguments, on_event))
    return code


async def _run_diff(arguments: argparse.Namespace, on_event: EventSink) -> int:
    from bootc_fast.etc.merge import diff_etc
    from bootc_fast.flows.host_etc import diff_host

    paths = [*arguments.more_paths, *arguments.paths]
    if not _want_named(arguments):
        diff = await diff_host(arguments.root, patch=arguments.patch, paths=paths, on_event=on_event)
    else:
        async with AsyncExitStack() as stack:
            trees = await _open_trees(arguments, stack, on_event)
            diff = await diff_etc(
                trees.pristine, trees.current, trees.new, patch=arguments.patch, paths=paths, on_event=on_event
            )
    _print_diff(diff, as_json=arguments.json)
    return int(arguments.exit_code and diff.has_differences)


def _print_diff(diff: EtcDiff, *, as_json: bool) -> None:
    from bootc_fast.etc.render import encode_diff, render_diff

    if as_json:
        print_json(encode_diff(diff))
        return
    print_lines(render_diff(diff))
    for patch in diff.patches:
        # A terminal shows escapes. Whatever else reads this may apply it, and would write the escapes into the file: it
        # gets the bytes, but not those that a terminal at the end of a pipe would act on.
        if sys.stdout.isatty():
            write_stdout(patch.text)
        else:
            write_stdout(patch.data if patch.is_plain else patch.notice)


async def _run_merge(arguments: argparse.Namespace, on_event: EventSink) -> int:
    from bootc_fast.etc.merge import check_destination, plan_etc_merge
    from bootc_fast.machine.native import run_blocking

    async with AsyncExitStack() as stack:
        trees = await _open_trees(arguments, stack, on_event)
        if trees.new is None:
            raise UsageError("merging /etc: there is no new image", hint="stage one, or name one with --new")
        if trees.dest_fd is not None:
            await run_blocking(check_destination, trees.dest_fd, (trees.pristine, trees.current, trees.new))
        planning = plan_etc_merge(trees.pristine, trees.current, trees.new, policy=trees.policy, on_event=on_event)
        plan = stack.enter_context(await planning)
        try:
            plan.refuse_conflicts()
        except EtcConflictError as error:
            if arguments.json:
                # One document, of the failure and of what it is about.
                print_json({**encode_error(error), **_encode_merge(plan.report, ())})
                arguments.has_told_json = True
            raise
        report, operations = await _carry_out(plan, trees.dest_fd, on_event, dry_run=arguments.dry_run)
    _print_merge(report, operations, arguments)
    return 0


async def _carry_out(
    plan: EtcPlan, dest_fd: int | None, on_event: EventSink, *, dry_run: bool
) -> tuple[EtcReport, tuple[EtcOperation, ...]]:
    if dest_fd is None:
        return plan.report, ()
    if dry_run:
        return plan.report, tuple(await plan.list_operations(dest_fd, on_event=on_event))
    applied = await plan.apply_listing(dest_fd, on_event=on_event)
    return applied.report, applied.operations


def _encode_merge(report: EtcReport, operations: tuple[EtcOperation, ...]) -> dict[str, object]:
    from bootc_fast.etc.render import encode_operations, encode_report

    return {"report": encode_report(report), "operations": encode_operations(operations)}


def _print_merge(report: EtcReport, operations: tuple[EtcOperation, ...], arguments: argparse.Namespace) -> None:
    from bootc_fast.etc.render import render_operations, render_report

    if arguments.json:
        print_json(_encode_merge(report, operations))
        return
    if arguments.dry_run or arguments.verbose:
        print_lines(render_operations(operations))
    print_lines(render_report(report))


def _want_named(arguments: argparse.Namespace) -> bool:
    """Whether trees were named, instead of those of a host."""
    return any([arguments.pristine, arguments.current, arguments.new])


async def _open_trees(arguments: argparse.Namespace, stack: AsyncExitStack, on_event: EventSink) -> Trees:
    from bootc_fast.machine.native import run_blocking

    if not _want_named(arguments):
        from bootc_fast.flows.host_etc import open_merge_trees

        into_fd = None
        if arguments.into is not None:
            into_fd = await run_blocking(lambda: open_path(arguments.into, stack, kind=stat.S_IFDIR))
        strategy = parse_choice(arguments.on_conflict)
        return await open_merge_trees(
            arguments.root,
            stack,
            on_conflict=strategy,
            into_fd=into_fd,
            dry_run=arguments.dry_run,
            on_event=on_event,
        )
    if arguments.pristine is None or arguments.current is None:
        raise UsageError("reading the command line: --pristine and --current go together")
    return await run_blocking(_open_named_trees, arguments, stack)


def _open_named_trees(arguments: argparse.Namespace, stack: AsyncExitStack) -> Trees:
    from bootc_fast.etc.policy import MergePolicy, to_choice
    from bootc_fast.etc.trees import DirectorySource
    from bootc_fast.flows.host_etc import Trees

    is_merge = arguments.etc_command == "merge"
    if is_merge and arguments.new is None:
        raise UsageError("reading the command line: a merge needs --new")
    into = arguments.into if is_merge else None
    if is_merge and into is None and not arguments.dry_run:
        raise UsageError("reading the command line: a merge needs --into, or --dry-run")
    current = DirectorySource(open_path(arguments.current, stack, kind=stat.S_IFDIR))
    objects = None if arguments.objects is None else open_path(arguments.objects, stack, kind=stat.S_IFDIR)
    subdir = os.fsencode(arguments.subdir).strip(b"/")
    pristine = _open_source(arguments.pristine, stack, objects, subdir)
    new = None if arguments.new is None else _open_source(arguments.new, stack, objects, subdir)
    policy = to_choice(parse_choice(arguments.on_conflict) if is_merge else None).apply_to(MergePolicy())
    dest_fd = None if into is None else open_path(into, stack, kind=stat.S_IFDIR)
    return Trees(pristine, current, new, policy, dest_fd)


def _open_source(path: Path, stack: AsyncExitStack, objects: int | None, subdir: bytes) -> EtcSource:
    from bootc_fast.etc.trees import DirectorySource, ImageSource

    fd = open_path(path, stack)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        return DirectorySource(fd)
    return ImageSource(fd, objects, subdir)


def open_path(path: Path, stack: AsyncExitStack, *, kind: int | None = None) -> int:
    """Open a directory or a regular file that the user named, for as long as `stack` lives.

    Raises:
        UsageError: It is not there, or something else.
        FileSystemError: It cannot be opened.
    """
    try:
        # Without waiting, in case it is a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"opening {path}: {reason_of(error)}") from error
    except OSError as error:
        raise FileSystemError(f"opening {path}: {reason_of(error)}") from error
    stack.callback(os.close, fd)
    found = stat.S_IFMT(os.fstat(fd).st_mode)
    if found not in ((kind,) if kind else (stat.S_IFDIR, stat.S_IFREG)):
        wanted = "a directory" if kind == stat.S_IFDIR else "a directory or an image"
        raise UsageError(f"opening {path}: it is not {wanted}")
    return fd
