"""Which exit codes each command has, and what one means there beyond its general meaning.

The one table: a command's help and its man page are made of it, and whatever command the tests run has to keep to it.
"""

from __future__ import annotations

from typing import NamedTuple

# Of nearly every command: a wrong command line, another kind of machine, a file system that refuses, being stopped.
_COMMON = (0, 1, 2, 3, 6, 8, 10)


class ExitStatus(NamedTuple):
    """What a command ends with.

    Attributes:
        codes: Of ``errors.EXIT_CODES``.
        notes: What one means here, where that is more than everywhere.
    """

    codes: tuple[int, ...] = _COMMON
    notes: dict[int, str] = {}  # noqa: RUF012 never written to


EXIT_STATUS = {
    "status": ExitStatus(
        (*_COMMON, 5, 7, 9, 11, 12),
        {
            7: "With --check: the next boot is not as meant.",
            10: "With --check: a staged update will not be applied.",
            0: "Also where something is wrong with the host, unless --check is given. With it, the code of the last "
            "finalize where that failed; of several codes, the highest.",
        },
    ),
    "composefs-finalize-staged": ExitStatus(
        (*_COMMON, 5, 7, 11, 12),
        {
            5: "Nothing was written; each conflict is listed, with both sides.",
            11: "A signature that Secure Boot would refuse, or a file that is not what its digest says.",
            12: "The staged deployment failed its trial before.",
        },
    ),
    "rollback": ExitStatus(
        (*_COMMON, 4, 7, 9, 11, 12),
        {7: "Also where the order was changed and something that is not of this host boots first all the same."},
    ),
    "unstage": ExitStatus((*_COMMON, 7)),
    "hold": ExitStatus(),
    "pin": ExitStatus((*_COMMON, 7)),
    "unpin": ExitStatus((*_COMMON, 7)),
    "forget-failure": ExitStatus(),
    "health": ExitStatus((0, 1, 2, 6, 8, 10, 12), {12: "A required check failed."}),
    "doctor": ExitStatus((*_COMMON, 7), {7: "Something is wrong, or stays wrong after --repair."}),
    "soft-reboot": ExitStatus((*_COMMON, 5, 7, 9, 11, 12)),
    "etc": ExitStatus((*_COMMON, 5, 11), {1: "Of `etc diff --exit-code`: something was changed."}),
    "config-diff": ExitStatus((*_COMMON, 11), {1: "With --exit-code: something was changed."}),
    "policy": ExitStatus((0, 1, 2, 6, 10), {10: "A policy file cannot be understood."}),
    "self-test": ExitStatus((0, 1, 2, 6, 10), {10: "The image lacks something."}),
    "digest": ExitStatus((0, 1, 2, 6, 8)),
    "image": ExitStatus((0, 1, 2, 6, 8, 10, 11), {11: "An image or object is not what its digest says."}),
    "lab": ExitStatus((0, 1, 2, 3, 6, 7, 8, 10)),
    "boot-complete": ExitStatus(
        (*_COMMON, 5, 7, 9, 11, 12),
        {0: "Also where a failure was told already.", 10: "What was staged was never finalized."},
    ),
}
"""By the command's name; an alias has its command's."""
