"""What the parser does not know of each verb: its exit codes, files, and where to read on."""

from __future__ import annotations

from typing import NamedTuple

ADMIN, VENDOR, STATE = "/etc/bootc-fast", "/usr/lib/bootc-fast", "/sysroot/state/bootc-fast"

# Of nearly every verb: a wrong command line, another kind of machine, a file system that refuses, being stopped.
_COMMON = (0, 1, 2, 3, 6, 8, 10)

FILES = {
    "merge": (f"{VENDOR}/merge.toml, {ADMIN}/merge.toml", "Who wins on conflicts: bootc-fast-merge.toml(5)."),
    "boot": (f"{VENDOR}/boot.toml, {ADMIN}/boot.toml", "How many deployments stay: bootc-fast-boot.toml(5)."),
    "trial": (f"{VENDOR}/trial.toml, {ADMIN}/trial.toml", "Trials and health: bootc-fast-trial.toml(5)."),
    "marker": ("/run/composefs/staged-deployment", "What is staged, as bootc writes it; gone after a power cut."),
    "outcome": (f"{STATE}/last-finalize.json", "How the last finalize ended."),
    "states": (f"{STATE}/deployments.json", "The state of each deployment: new, on trial, good, failed."),
    "pins": (f"{STATE}/boot.toml", "What is pinned."),
    "checks": (
        "/etc/greenboot/check, /usr/lib/greenboot/check, /etc/bootc-fast/health.d, /usr/lib/bootc-fast/health.d",
        "Health checks, in `required.d` and `wanted.d`; `green.d` and `red.d` run afterwards.",
    ),
}


class Facts(NamedTuple):
    """What a page says beyond the parser.

    Attributes:
        codes: Exit codes that the verb has.
        files: Names in `FILES`.
        see: Other pages.
        notes: What an exit code means here, where that is more than everywhere.
    """

    codes: tuple[int, ...] = _COMMON
    files: tuple[str, ...] = ()
    see: tuple[str, ...] = ()
    notes: dict[int, str] = {}  # noqa: RUF012 never written to


FACTS = {
    "status": Facts(
        (*_COMMON, 5, 7, 9, 11, 12),
        ("marker", "outcome", "states"),
        ("bootc-fast-rollback(8)", "bootc-fast-etc(8)", "bootc-fast-doctor(8)"),
        {
            7: "With --check: the next boot is not as meant.",
            10: "With --check: a staged update will not be applied.",
            0: "Also where something is wrong with the host, unless --check is given. With it, the code of the last "
            "finalize where that failed; of several codes, the highest.",
        },
    ),
    "composefs-finalize-staged": Facts(
        (*_COMMON, 5, 7, 11, 12),
        ("merge", "boot", "trial", "marker", "outcome", "states"),
        ("bootc-fast-merge.toml(5)", "bootc-fast-unstage(8)", "bootc-fast-hold(8)", "bootc-fast-status(8)"),
        {
            5: "Nothing was written; each conflict is listed, with both sides.",
            11: "A signature that Secure Boot would refuse, or a file that is not what its digest says.",
            12: "The staged deployment failed its trial before.",
        },
    ),
    "rollback": Facts(
        (*_COMMON, 4, 7, 9, 11, 12),
        ("states",),
        ("bootc-fast-status(8)", "bootc-fast-etc(8)", "bootc-fast-soft-reboot(8)", "bootc-fast-hold(8)"),
        {7: "Also where the order was changed and something that is not of this host boots first all the same."},
    ),
    "unstage": Facts((*_COMMON, 7), ("marker",), ("bootc-fast-hold(8)", "bootc-fast-rollback(8)")),
    "hold": Facts(_COMMON, ("marker",), ("bootc-fast-unstage(8)", "bootc-fast-status(8)")),
    "pin": Facts((*_COMMON, 7), ("pins", "boot"), ("bootc-fast-unpin(8)", "bootc-fast-boot.toml(5)")),
    "unpin": Facts((*_COMMON, 7), ("pins", "boot"), ("bootc-fast-pin(8)", "bootc-fast-boot.toml(5)")),
    "forget-failure": Facts(_COMMON, ("states",), ("bootc-fast-status(8)", "bootc-fast-health(8)")),
    "health": Facts(
        (0, 1, 2, 6, 8, 10, 12),
        ("trial", "checks", "states"),
        ("bootc-fast-trial.toml(5)", "bootc-fast-forget-failure(8)"),
        {12: "A required check failed."},
    ),
    "doctor": Facts(
        (*_COMMON, 7),
        (),
        ("bootc-fast-status(8)", "fsck.fat(8)"),
        {7: "Something is wrong, or stays wrong after --repair."},
    ),
    "soft-reboot": Facts((*_COMMON, 5, 7, 9, 11, 12), ("marker",), ("bootc-fast-rollback(8)", "systemctl(1)")),
    "etc": Facts(
        (*_COMMON, 5, 11),
        ("merge",),
        ("bootc-fast-merge.toml(5)", "bootc-fast-config-diff(8)", "patch(1)"),
        {1: "Of `etc diff --exit-code`: something was changed."},
    ),
    "config-diff": Facts((*_COMMON, 11), (), ("bootc-fast-etc(8)",), {1: "With --exit-code: something was changed."}),
    "policy": Facts(
        (0, 1, 2, 6, 10),
        ("merge", "boot", "trial"),
        ("bootc-fast-merge.toml(5)", "bootc-fast-boot.toml(5)", "bootc-fast-trial.toml(5)"),
        {10: "A policy file cannot be understood."},
    ),
    "self-test": Facts((0, 1, 2, 6, 10), (), ("bootc-fast-policy(8)",), {10: "The image lacks something."}),
    "digest": Facts((0, 1, 2, 6, 8), (), ("fsverity(1)", "bootc-fast-image(8)")),
    "image": Facts(
        (0, 1, 2, 6, 8, 10, 11), (), ("bootc-fast-digest(8)",), {11: "An image or object is not what its digest says."}
    ),
    "lab": Facts((0, 1, 2, 3, 6, 7, 8, 10), (), ("bootc-fast(8)",)),
    "boot-complete": Facts(
        (*_COMMON, 5, 7, 9, 11, 12),
        ("outcome", "states"),
        ("bootc-fast-status(8)", "bootc-fast-health(8)"),
        {0: "Also where a failure was told already.", 10: "What was staged was never finalized."},
    ),
}

ENVIRONMENT = {
    "COLUMNS": "How wide help is, in characters; without it, as wide as the terminal.",
    "NO_COLOR": "Where it is set and not empty, no colours.",
    "TERM": "Where it is `dumb` or missing, no progress bar.",
    "NOTIFY_SOCKET": "Set by systemd: it is told what is being done, and asked for more time while something moves.",
}
