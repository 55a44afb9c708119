"""``bootc-fast lab``: a whole bootc host in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bootc_fast.cli.progress import show_progress
from bootc_fast.cli.render import print_json, print_lines
from bootc_fast.types import Algorithm, BootType, Loader

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

EPILOG = """\
example:
  bootc-fast lab create /tmp/h --loader grub
  bootc-fast lab edit /tmp/h
  bootc-fast lab stage /tmp/h
  bootc-fast --root /tmp/h finalize
  bootc-fast lab boot /tmp/h
  bootc-fast --root /tmp/h status

No privileges are needed. As root, owners and all attributes are those of ROOTFS; otherwise everything
belongs to you, in the image as in /etc. Without --from, a small OS is generated whose /etc is a copy of
what you may read of this machine's; the directory is therefore readable by you only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)

    def add(
        name: str, summary: str, example: str, run_it: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  bootc-fast lab {name} {example}",
        )  # fmt: skip
        child.set_defaults(run_lab=run_it)
        if name == "demo":
            child.add_argument("directory", metavar="DIR", type=Path, nargs="?", help="default: a temporary one")
        else:
            child.add_argument("directory", metavar="DIR", type=Path, help="the directory of the host")
        return child

    create = add("create", "make a host with one deployment, booted", "DIR --loader grub", _run_create)
    _add_source(create)
    _add_kind(create)
    stage = add("stage", "stage another deployment, as bootc upgrade does", "DIR --from ROOTFS", _run_stage)
    _add_source(stage)
    stage.add_argument("--boot-type", choices=[str(kind) for kind in BootType], help="default: as the booted one")
    again = "the newest deployment that does not run once more, as an updater does that knows no failure"
    stage.add_argument("--again", action="store_true", help=again)
    stage.add_argument("--download-only", action="store_true", help="lock it: not to be finalized at shutdown")
    edit = add("edit", "edit /etc as an administrator would, one edit of every kind", "DIR", _run_edit)
    edit.add_argument("--hard", action="store_true", help="also what bootc's own finalize cannot carry over")
    _add_ends(add("boot", "boot as firmware and loader would: the loader's first entry", "DIR --fails 3", _run_boot))
    summary = "show where things stand: deployments, and the entries in the loader's order"
    show = add("show", summary, "DIR --json", _run_show)
    show.add_argument("--json", action="store_true", help="print JSON")
    summary = "play the whole story, from creation to rollback, with a line of explanation a step"
    demo = add("demo", summary, "--loader grub --boot-type uki", _run_demo)
    _add_kind(demo)
    summary = "play another story: an update that fails a health check falls back by itself, and is refused"
    demo.add_argument("--trial", action="store_true", help=summary)


def _add_kind(parser: argparse.ArgumentParser) -> None:
    for option, kind, default, what in (
        ("--loader", Loader, Loader.SYSTEMD_BOOT, "the boot loader"),
        ("--boot-type", BootType, BootType.BLS, "what it boots"),
        ("--algorithm", Algorithm, Algorithm.SHA512, "of the digests"),
    ):
        words = [str(one) for one in kind]
        parser.add_argument(
            option, choices=words, metavar="NAME", default=str(default), help=f"{what}: {', '.join(words)}"
        )


def _add_ends(parser: argparse.ArgumentParser) -> None:
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--healthy", action="store_true", help="run what start-up runs: health checks, boot-complete")
    summary = (
        "the next COUNT boots fail a health check: what is on trial reboots each time; then one boot that is healthy"
    )
    ends.add_argument("--fails", metavar="COUNT", type=int, help=summary)
    ends.add_argument("--panics", action="store_true", help="what is on trial panics, until something else boots")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        metavar="ROOTFS",
        type=Path,
        help="a root file tree: a directory or a tar archive (default: a small generated OS)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the sub-command."""
    code: int = arguments.run_lab(arguments)
    return code


def _run_create(arguments: argparse.Namespace) -> int:
    from bootc_fast.lab import create

    with show_progress(arguments) as on_event:
        host = create(
            arguments.directory,
            source=arguments.source,
            loader=Loader(arguments.loader),
            boot_type=BootType(arguments.boot_type),
            algorithm=Algorithm(arguments.algorithm),
            on_event=on_event,
        )
    print_lines([f"Created {host.root}: {host.loader} and {host.boot_type}", f"Booted: {host.booted}"])
    return 0


def _run_stage(arguments: argparse.Namespace) -> int:
    from bootc_fast.lab import stage

    boot_type = BootType(arguments.boot_type) if arguments.boot_type else None
    with show_progress(arguments) as on_event:
        digest = stage(
            arguments.directory,
            source=arguments.source,
            boot_type=boot_type,
            locked=arguments.download_only,
            again=arguments.again,
            on_event=on_event,
        )
    print_lines([f"Staged: {digest}"])
    return 0


def _run_edit(arguments: argparse.Namespace) -> int:
    from bootc_fast.etc.render import render_path
    from bootc_fast.lab import apply_edits, open_lab

    edits = apply_edits(open_lab(arguments.directory).etc, hard=arguments.hard)
    print_lines(f"{render_path(edit.path)}  {edit.what}" for edit in edits)
    return 0


def _run_boot(arguments: argparse.Namespace) -> int:
    from bootc_fast.cli.lab_boots import (
        boot_healthy,
        boot_once,
        boot_panicking,
        boot_unhealthy,
        encode_boots,
        render_boots,
    )
    from bootc_fast.lab import open_lab

    host = open_lab(arguments.directory)
    if arguments.fails is not None:
        found = boot_unhealthy(host, arguments.fails)
    elif arguments.panics:
        found = boot_panicking(host)
    else:
        found = boot_healthy(host) if arguments.healthy else boot_once(host)
    if arguments.json:
        print_json(encode_boots(found))
    else:
        print_lines(render_boots(found))
    return 0


def _run_show(arguments: argparse.Namespace) -> int:
    from bootc_fast.lab import open_lab
    from bootc_fast.lab.show import collect_facts, render_facts

    facts = collect_facts(open_lab(arguments.directory))
    if arguments.json:
        print_json(facts)
    else:
        print_lines(render_facts(facts))
    return 0


def _run_demo(arguments: argparse.Namespace) -> int:
    from bootc_fast.boot.loaders.table import record_of
    from bootc_fast.cli.lab_demo import tell
    from bootc_fast.errors import UsageError

    if arguments.trial and record_of(Loader(arguments.loader)).counts_in is None:
        raise UsageError("playing the demo: --trial needs a loader that counts boots, and this one does not")
    kind = (f"--loader={arguments.loader}", f"--boot-type={arguments.boot_type}", f"--algorithm={arguments.algorithm}")
    defaults = (f"--loader={Loader.SYSTEMD_BOOT}", f"--boot-type={BootType.BLS}", f"--algorithm={Algorithm.SHA512}")
    tell(arguments.directory, [option for option in kind if option not in defaults], trial=arguments.trial)
    return 0
