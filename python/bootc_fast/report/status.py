"""The state of a host, as ``status`` reports it: the same form for composefs and ostree hosts.

Source:
    Spec commands.md, the row ``status``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.composefs.container import ImageFacts
from bootc_fast.records import dataclass, field

if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import RunningTrial
    from bootc_fast.composefs.container import ImageName
    from bootc_fast.etc.diff import EtcDiffEntry
    from bootc_fast.ostree.sysroot import OstreeDeployment
    from bootc_fast.report.finalize import OutcomeRecord
    from bootc_fast.restart.prepared import PreparedRestart
    from bootc_fast.restart.soft import SoftRebootVerdict
    from bootc_fast.trial.states import TrialRecord
    from bootc_fast.types import BootType, Deployment, Loader, VerityDigest


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """One deployment, as a person asks for it.

    Attributes:
        digest: Its image.
        deployment: Its state directory and origin.
        image: Its container image; None where the origin names none.
        facts: Of the container image.
        boot_type: By its boot entry, else its origin; None where neither says.
        title: Of its boot entry, e.g. ``Fedora Linux 43``.
        version: Of its boot entry.
        entry_name: File name of its boot entry; None where it has none.
        boots_next: The loader takes it first.
        problems: What is broken, in words for people.
        remarks: What is to be known about it though nothing is broken, in words for people.
        soft_reboot: Whether a soft reboot leads to it; None for the one that runs, and where that cannot be told.
        trial: What is known of its trial; None where nothing is.
        counting: Its trial as the boot loader has it; None where its boots are not counted.
        is_pinned: It keeps its boot entry and its boot files whatever is updated.
        ostree: On an ostree host what libostree knows of it; `digest` is ``<commit>.<serial>`` then.
    """

    digest: VerityDigest
    deployment: Deployment
    image: ImageName | None = None
    facts: ImageFacts = field(default_factory=ImageFacts)
    boot_type: BootType | None = None
    title: str | None = None
    version: str | None = None
    entry_name: str | None = None
    boots_next: bool = False
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    soft_reboot: SoftRebootVerdict | None = None
    trial: TrialRecord | None = None
    counting: RunningTrial | None = None
    is_pinned: bool = False
    ostree: OstreeDeployment | None = None


@dataclass(frozen=True, slots=True)
class StagedStatus:
    """Whether the staged deployment becomes the next boot when the machine goes down.

    Attributes:
        will_be_applied: None where that cannot be told.
        reasons: Why, or why not, in words for people.
        finalization_locked: Download-only.
        is_finalized: It is the next boot already.
        hints: What can be done about it.
    """

    will_be_applied: bool | None
    reasons: tuple[str, ...]
    finalization_locked: bool = False
    is_finalized: bool = False
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextBoot:
    """What the loader takes first.

    Attributes:
        digest: The deployment; None where it is not one of ours, or cannot be told.
        entry_name: File name of the entry.
        reason: Why it is that one, in words for people.
        rule: By which the loader sorts; None where that cannot be told.
        override: What picks another entry than the first, e.g. ``LoaderEntryDefault``; None where nothing does.
    """

    digest: VerityDigest | None
    entry_name: str | None
    reason: str
    rule: str | None = None
    override: str | None = None


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The state of a host.

    Attributes:
        booted: The deployment that runs.
        staged: None where none is.
        rollback: First of the other deployments in the loader's order.
        others: The rest of them, in the loader's order; then those without a boot entry.
        staged_status: Of the staged one.
        next_boot: What the loader takes first.
        rollback_queued: The loader's default is not the booted deployment.
        loader: None where the boot partition cannot be read.
        missing_verity_allowed: The booted image may lack fs-verity.
        last_finalize: None where there was none.
        is_read_only: The physical root is read-only.
        warnings: All that is odd, in words for people.
        rollback_etc: The local changes of the running /etc that the rollback deployment does not have; None where
            nobody asked, or that cannot be told.
        prepared: What a plain reboot enters instead of the loader's choice; None where nothing is prepared.
    """

    booted: DeploymentStatus
    staged: DeploymentStatus | None
    rollback: DeploymentStatus | None
    others: tuple[DeploymentStatus, ...]
    staged_status: StagedStatus | None
    next_boot: NextBoot
    rollback_queued: bool
    loader: Loader | None
    missing_verity_allowed: bool
    last_finalize: OutcomeRecord | None
    is_read_only: bool
    warnings: tuple[str, ...]
    rollback_etc: tuple[EtcDiffEntry, ...] | None = None
    prepared: PreparedRestart | None = None
