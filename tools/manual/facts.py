"""What the parser does not know of each verb: its files, and where to read on."""

from __future__ import annotations

from typing import NamedTuple

ADMIN, VENDOR, STATE = "/etc/bootc-fast", "/usr/lib/bootc-fast", "/sysroot/state/bootc-fast"

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
    """What a page says beyond the parser and the exit codes.

    Attributes:
        files: Names in `FILES`.
        see: Other pages.
    """

    files: tuple[str, ...] = ()
    see: tuple[str, ...] = ()


FACTS = {
    "status": Facts(
        ("marker", "outcome", "states"), ("bootc-fast-rollback(8)", "bootc-fast-etc(8)", "bootc-fast-doctor(8)")
    ),
    "composefs-finalize-staged": Facts(
        ("merge", "boot", "trial", "marker", "outcome", "states"),
        ("bootc-fast-merge.toml(5)", "bootc-fast-unstage(8)", "bootc-fast-hold(8)", "bootc-fast-status(8)"),
    ),
    "rollback": Facts(
        ("states",), ("bootc-fast-status(8)", "bootc-fast-etc(8)", "bootc-fast-soft-reboot(8)", "bootc-fast-hold(8)")
    ),
    "unstage": Facts(("marker",), ("bootc-fast-hold(8)", "bootc-fast-rollback(8)")),
    "hold": Facts(("marker",), ("bootc-fast-unstage(8)", "bootc-fast-status(8)")),
    "pin": Facts(("pins", "boot"), ("bootc-fast-unpin(8)", "bootc-fast-boot.toml(5)")),
    "unpin": Facts(("pins", "boot"), ("bootc-fast-pin(8)", "bootc-fast-boot.toml(5)")),
    "forget-failure": Facts(("states",), ("bootc-fast-status(8)", "bootc-fast-health(8)")),
    "health": Facts(("trial", "checks", "states"), ("bootc-fast-trial.toml(5)", "bootc-fast-forget-failure(8)")),
    "doctor": Facts((), ("bootc-fast-status(8)", "fsck.fat(8)")),
    "soft-reboot": Facts(("marker",), ("bootc-fast-rollback(8)", "systemctl(1)")),
    "etc": Facts(("merge",), ("bootc-fast-merge.toml(5)", "bootc-fast-config-diff(8)", "patch(1)")),
    "config-diff": Facts((), ("bootc-fast-etc(8)",)),
    "policy": Facts(
        ("merge", "boot", "trial"), ("bootc-fast-merge.toml(5)", "bootc-fast-boot.toml(5)", "bootc-fast-trial.toml(5)")
    ),
    "self-test": Facts((), ("bootc-fast-policy(8)",)),
    "digest": Facts((), ("fsverity(1)", "bootc-fast-image(8)")),
    "image": Facts((), ("bootc-fast-digest(8)",)),
    "lab": Facts((), ("bootc-fast(8)",)),
    "boot-complete": Facts(("outcome", "states"), ("bootc-fast-status(8)", "bootc-fast-health(8)")),
}

ENVIRONMENT = {
    "COLUMNS": "How wide help is, in characters; without it, as wide as the terminal.",
    "NO_COLOR": "Where it is set and not empty, no colours.",
    "TERM": "Where it is `dumb` or missing, no progress bar.",
    "NOTIFY_SOCKET": "Set by systemd: it is told what is being done, and asked for more time while something moves.",
}
