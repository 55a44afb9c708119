"""A host's status as the document that bootc's ``status --json`` prints, for the programs that read that.

What bootc does not know stands under ``bootcFast`` keys, which its schema leaves free.

Source:
    The host-v1 JSON schema of bootc; bootc ``spec.rs`` and ``bootc_composefs/status.rs``.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from bootc_fast.boot.loaders.table import record_of
from bootc_fast.etc.policy import encode_choice
from bootc_fast.etc.render import encode_entries
from bootc_fast.text import encode_bytes
from bootc_fast.types import BootType

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.composefs.container import ImageFacts, ImageName
    from bootc_fast.ostree.sysroot import OstreeImage
    from bootc_fast.report.finalize import OutcomeRecord
    from bootc_fast.report.status import DeploymentStatus, HostStatus
    from bootc_fast.trial.states import TrialRecord

API_VERSION = "org.containers.bootc/v1"
KIND = "BootcHost"

_BOOT_TYPES = {BootType.BLS: "Bls", BootType.UKI: "Uki"}
# By libostree's name of how /usr was unlocked.
_USR_OVERLAYS = {
    "development": {"accessMode": "readWrite", "persistence": "transient"},
    "hotfix": {"accessMode": "readWrite", "persistence": "persistent"},
    "transient": {"accessMode": "readOnly", "persistence": "transient"},
}
# The OCI names of architectures; others are the same as the kernel's.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Document = dict[str, Any]


def make_document(status: HostStatus) -> Document:
    """Make the document.

    Returns:
        Plain values; valid against the host-v1 schema.
    """
    entries = {
        "staged": status.staged,
        "booted": status.booted,
        "rollback": status.rollback,
    }
    shown = {name: None if one is None else _entry(one, status) for name, one in entries.items()}
    if shown["staged"] is not None and status.staged_status is not None:
        shown["staged"]["downloadOnly"] = status.staged_status.finalization_locked
    wanted = status.staged or status.booted
    is_ostree = status.booted.ostree is not None
    # What has no entry is nothing that bootc shows; it is told among our own facts.
    others = [_entry(one, status) for one in status.others if is_ostree or one.entry_name is not None]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "host"},
        "spec": {
            "image": _image_reference(wanted.image),
            # Without an image bootc specifies nothing of an ostree host.
            "bootOrder": "rollback" if status.rollback_queued and (wanted.image or not is_ostree) else "default",
        },
        "status": {
            **shown,
            **({"otherDeployments": others} if others else {}),
            "rollbackQueued": status.rollback_queued,
            "readOnly": status.is_read_only,
            # Of a composefs host bootc does not tell it.
            "type": "bootcHost" if is_ostree and status.booted.image else None,
            "usrOverlay": _USR_OVERLAYS.get(status.booted.ostree.unlocked) if status.booted.ostree else None,
        },
        "bootcFast": _own_facts(status),
    }


def _image_reference(name: ImageName | None) -> Document | None:
    if name is None:
        return None
    reference: Document = {"image": name.image, "transport": name.transport}
    return reference if name.signature is None else {**reference, "signature": name.signature}


def _entry(one: DeploymentStatus, status: HostStatus) -> Document:
    return {
        "image": _image_status(one),
        "cachedUpdate": _cached_update(one),
        "incompatible": one.ostree is not None and one.ostree.is_changed_locally,
        "pinned": one.is_pinned or (one.ostree is not None and one.ostree.is_pinned),
        "downloadOnly": False,
        "softRebootCapable": one.soft_reboot is not None and one.soft_reboot.is_possible,
        **_backend(one, status),
        "bootcFast": {
            "title": one.title,
            "version": one.version,
            "bootEntry": one.entry_name,
            "bootsNext": one.boots_next,
            "problems": list(one.problems),
            "remarks": list(one.remarks),
            "softReboot": None if one.soft_reboot is None else str(one.soft_reboot),
            "trial": None if one.trial is None else _encode_trial(one.trial, one.counting),
        },
    }


def _encode_trial(trial: TrialRecord, running: RunningTrial | None) -> Document:
    return {
        "state": trial.state.value,
        "since": trial.time or None,
        "tries": trial.tries,
        "reasons": list(trial.reasons),
        "counting": None
        if running is None
        else {
            "method": running.method.value,
            "triesLeft": running.tries_left,
            "triesDone": running.tries_done,
            "isGivenUp": running.is_given_up,
        },
    }


def _backend(one: DeploymentStatus, status: HostStatus) -> Document:
    """What depends on how the deployment is stored."""
    if one.ostree is not None:
        return {
            "store": "ostreeContainer",
            "ostree": {
                "stateroot": one.ostree.stateroot,
                "checksum": one.ostree.checksum,
                "deploySerial": one.ostree.serial,
            },
            "composefs": None,
        }
    origin = one.deployment.origin
    return {
        "store": None,
        "ostree": None,
        "composefs": {
            "verity": one.digest,
            "bootType": _BOOT_TYPES[one.boot_type or BootType.BLS],
            "bootloader": "none" if status.loader is None else record_of(status.loader).status_name,
            "bootDigest": origin.boot_digest if origin else None,
            "missingVerityAllowed": status.missing_verity_allowed,
        },
    }


def _image_status(one: DeploymentStatus) -> Document | None:
    origin = one.deployment.origin
    digest = origin.manifest_digest if origin else None
    return _make_image(one.image, digest, one.facts)


def _cached_update(one: DeploymentStatus) -> Document | None:
    newer = one.ostree.cached_update if one.ostree is not None else None
    return None if newer is None else _make_image(one.image, newer.manifest_digest, newer)


def _make_image(name: ImageName | None, digest: str | None, facts: ImageFacts | OstreeImage) -> Document | None:
    reference = _image_reference(name)
    if reference is None or digest is None:
        # The schema wants both; the reference alone stands in spec and in the human form.
        return None
    machine = platform.machine()
    return {
        "image": reference,
        "imageDigest": digest,
        "version": facts.version,
        "timestamp": facts.timestamp,
        # The schema wants one: what can boot here is of this machine's architecture.
        "architecture": facts.architecture or _ARCHITECTURES.get(machine, machine),
    }


def _own_facts(status: HostStatus) -> Document:
    staged = status.staged_status
    return {
        "nextBoot": {
            # On an ostree host it is no fs-verity digest.
            "verity": None if status.booted.ostree else status.next_boot.digest,
            "ostree": status.next_boot.digest if status.booted.ostree else None,
            "bootEntry": status.next_boot.entry_name,
            "reason": status.next_boot.reason,
            "rule": status.next_boot.rule,
            "override": status.next_boot.override,
        },
        "prepared": None
        if status.prepared is None
        else {
            "nextRoot": status.prepared.has_next_root,
            # On an ostree host, where libostree mounts it, that cannot be told.
            "verity": status.prepared.digest,
            "kexec": status.prepared.is_kexec_loaded,
        },
        # What a rollback takes away: local changes that the rollback deployment does not have.
        "rollbackEtc": None if status.rollback_etc is None else encode_entries(status.rollback_etc),
        "stagedUpdate": None
        if staged is None
        else {
            "willBeApplied": staged.will_be_applied,
            "isFinalized": staged.is_finalized,
            "reasons": list(staged.reasons),
            "hints": list(staged.hints),
        },
        "lastFinalize": None if status.last_finalize is None else _record(status.last_finalize),
        # Deployments that are kept and have no boot entry.
        "kept": []
        if status.booted.ostree
        else [_entry(one, status) for one in status.others if one.entry_name is None],
        "warnings": list(status.warnings),
    }


def _record(record: OutcomeRecord) -> Document:
    return {
        "result": record.result.value,
        "time": record.time,
        "booted": record.booted,
        "staged": record.staged,
        "nextBoot": record.next_boot,
        "exitCode": record.exit_code,
        "onConflict": encode_choice(record.on_conflict),
        "committed": record.committed,
        "errors": [
            {
                "message": error.message,
                "chain": list(error.chain),
                "hint": error.hint,
                "conflicts": [encode_bytes(path) for path in error.conflicts],
            }
            for error in record.errors
        ],
        "counts": dict(record.counts),
        "warnings": list(record.warnings),
    }
