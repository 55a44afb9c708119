"""Tools that tests need and ``make demo`` does not install.

Where one is missing a test that asks for it is skipped, and says what to install; in ``make test``, which installs them
all, it fails. The rule is here and in the hooks of ``conftest.py``; a tool is what ``tools/setup`` installs for tests.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ALL_ARE_HERE = "BOOTC_FAST_ALL_TOOLS"
_LIBOSTREE = "PyGObject and libostree (make setup)"
# Of packages that `tools/setup` knows by another of their commands.
_MORE = {
    "debugfs": "e2fsprogs", "dump.erofs": "erofs-utils", "fsck.erofs": "erofs-utils", "fsck.fat": "dosfstools",
    "fsck.vfat": "dosfstools", "getfattr": "attr", "lexgrog": "man-db", "mandb": "man-db", "mdir": "mtools",
    "mke2fs": "e2fsprogs", "mtype": "mtools", "sbverify": "sbsigntool", "whatis": "man-db",
}  # fmt: skip
OSTREE_NAMES = {"ostree_hosts", "libostree", "load_libostree"}
"""Names of a module's whose tests need libostree."""


def explain_ostree() -> str | None:
    """Say that libostree's Python side is not here; None where it is."""
    return None if importlib.util.find_spec("gi") else f"needs {_LIBOSTREE}"


@cache
def list_tools() -> dict[str, str]:
    """Commands and patterns of files that the set-up for tests looks for, and the Debian packages that have them."""
    text = (REPOSITORY / "tools/setup").read_text()
    section = text.partition('if [ "$purpose" = test ]; then')[2].partition("\nfi\n")[0]
    pairs = re.findall(r'"([^"$ ]+) ([^" ]+)"', section)
    assert len(pairs) > 30, section
    return dict(pairs) | _MORE


def is_required() -> bool:
    """Whether a tool that is missing is an error."""
    return os.environ.get(ALL_ARE_HERE) == "1"


def explain(error: BaseException | None) -> str | None:
    """Say which tool a test failed for; None where it was for something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            # A test of trio's: what its tasks failed for, if all of them did for that.
            reasons = [explain(inner) for inner in error.exceptions]
            return reasons[0] if all(reasons) else None
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "gi":
            return f"needs {_LIBOSTREE}"
        if isinstance(error, FileNotFoundError) and isinstance(error.filename, str | bytes | os.PathLike):
            reason = _explain_file(os.fsdecode(error.filename))
            if reason:
                return reason
        if reason := _explain_command(error):
            return reason
        error = error.__cause__ or error.__context__
    return None


def _explain_command(error: BaseException) -> str | None:
    """Say what a command that a test ran did not find: a file that it was given, or a command of a shell's line."""
    words = re.findall(r"([^\s:]+): (?:command )?not found", str(error)) if isinstance(error, AssertionError) else []
    if isinstance(error, subprocess.CalledProcessError):
        arguments = [os.fsdecode(one) for one in ([error.cmd] if isinstance(error.cmd, str) else error.cmd)]
        words = [one for one in arguments if one.startswith("/") and not Path(one).exists()]
        # What a shell says where it does not find a command.
        words += re.split(r"\s+", arguments[-1]) if error.returncode == 127 else []
    return next(filter(None, map(_explain_file, words)), None)


def _explain_file(name: str) -> str | None:
    for proof, package in list_tools().items():
        if proof.startswith("/"):
            # The file itself, or its directory where that is all that the package has there.
            if fnmatch.fnmatch(name, proof) or (name.startswith(f"{Path(proof).parent}/") and not Path(name).exists()):
                return f"needs {name} (Debian: {package})"
        elif name == proof and shutil.which(name) is None:
            return f"needs {name} (Debian: {package})"
    return None
