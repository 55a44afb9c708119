"""``bootc-fast self-test``: what an image lacks, for the build of that image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.cli.render import print_json, print_lines

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Says what an image lacks for bootc-fast to work on its hosts: units and their links, libraries (all are imported),
Python, byte code that a read-only /usr accepts, policy files, kernel, loader, SELinux labels. Run it at the end of the
image's build; it fails where something is missing. Of another root it looks at files alone. Writes nothing.
"""
EPILOG = """\
examples:
  bootc-fast self-test
  bootc-fast self-test --json
  bootc-fast self-test --root /path/to/image

Exit code 10: something is missing. What stands after "warning" does not fail it.
"""
_MARKS = {"ok": "ok      ", "warning": "warning ", "failed": "FAILED  "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run every check, and say what each found."""
    from bootc_fast.errors import InvalidStateError
    from bootc_fast.flows.self_test import self_test
    from bootc_fast.machine.host import open_host

    results = self_test(open_host(arguments.root))
    failed = sum(one.state == "failed" for one in results)
    error = InvalidStateError(f"testing the installation: {failed} of {len(results)} checks failed")
    if arguments.json:
        from bootc_fast.cli.failure import encode_error
        from bootc_fast.records import asdict

        print_json({"checks": [asdict(one) for one in results], **(encode_error(error) if failed else {})})
        arguments.has_told_json = True
    else:
        for one in results:
            print_lines([f"{_MARKS[one.state]} {one.name}: {one.message}"])
            if one.hint is not None:
                print_lines([f"          hint: {one.hint}"])
    if failed:
        raise error
    return 0
