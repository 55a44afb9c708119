"""bootc-fast: finishes and undoes updates of image-based Linux hosts that bootc installed.

The flows are async functions that run on trio, and through anyio on asyncio; they are imported when first used, so
that importing the package costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

# Not from typing: importing that takes a tenth of the command line's start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from bootc_fast.boot.counting.records import CountMethod as CountMethod
    from bootc_fast.boot.counting.records import RunningTrial as RunningTrial
    from bootc_fast.composefs.container import ImageFacts as ImageFacts
    from bootc_fast.composefs.container import ImageName as ImageName
    from bootc_fast.composefs.diagnosis import Finding as Finding
    from bootc_fast.errors import BootcFastError as BootcFastError
    from bootc_fast.errors import BootcFastErrorGroup as BootcFastErrorGroup
    from bootc_fast.errors import BootEntryError as BootEntryError
    from bootc_fast.errors import CancelledByUserError as CancelledByUserError
    from bootc_fast.errors import CommandError as CommandError
    from bootc_fast.errors import EspError as EspError
    from bootc_fast.errors import EtcConflictError as EtcConflictError
    from bootc_fast.errors import FatFormatError as FatFormatError
    from bootc_fast.errors import FileSystemError as FileSystemError
    from bootc_fast.errors import ImageFormatError as ImageFormatError
    from bootc_fast.errors import ImageReadError as ImageReadError
    from bootc_fast.errors import InvalidStateError as InvalidStateError
    from bootc_fast.errors import LimitExceededError as LimitExceededError
    from bootc_fast.errors import LockedError as LockedError
    from bootc_fast.errors import MountError as MountError
    from bootc_fast.errors import NoRollbackTargetError as NoRollbackTargetError
    from bootc_fast.errors import NotBootcHostError as NotBootcHostError
    from bootc_fast.errors import SignatureError as SignatureError
    from bootc_fast.errors import SoftRebootError as SoftRebootError
    from bootc_fast.errors import StepTimeoutError as StepTimeoutError
    from bootc_fast.errors import TrialFailedError as TrialFailedError
    from bootc_fast.errors import UsageError as UsageError
    from bootc_fast.errors import VerityMismatchError as VerityMismatchError
    from bootc_fast.etc.diff import EtcDiff as EtcDiff
    from bootc_fast.etc.diff import EtcDiffEntry as EtcDiffEntry
    from bootc_fast.etc.diff import EtcPatch as EtcPatch
    from bootc_fast.etc.diff import PatchSide as PatchSide
    from bootc_fast.etc.merge import diff_etc as diff_etc
    from bootc_fast.etc.merge import merge_etc as merge_etc
    from bootc_fast.etc.plan import AppliedMerge as AppliedMerge
    from bootc_fast.etc.policy import ConflictChoice as ConflictChoice
    from bootc_fast.etc.policy import MergePolicy as MergePolicy
    from bootc_fast.etc.policy import PolicyRule as PolicyRule
    from bootc_fast.etc.policy import Preference as Preference
    from bootc_fast.etc.policy import PreferenceRule as PreferenceRule
    from bootc_fast.etc.trees import DirectorySource as DirectorySource
    from bootc_fast.etc.trees import EtcSource as EtcSource
    from bootc_fast.etc.trees import ImageSource as ImageSource
    from bootc_fast.events import Event as Event
    from bootc_fast.events import EventSink as EventSink
    from bootc_fast.events import StepDone as StepDone
    from bootc_fast.events import StepProgress as StepProgress
    from bootc_fast.events import StepStarted as StepStarted
    from bootc_fast.events import channel_sink as channel_sink
    from bootc_fast.events import ignore_event as ignore_event
    from bootc_fast.flows.boot_complete import FailureReport as FailureReport
    from bootc_fast.flows.boot_complete import report_last_finalize as report_last_finalize
    from bootc_fast.flows.doctor import DoctorOutcome as DoctorOutcome
    from bootc_fast.flows.doctor import doctor as doctor
    from bootc_fast.flows.finalize import finalize_staged as finalize_staged
    from bootc_fast.flows.finalize_run import FinalizeOptions as FinalizeOptions
    from bootc_fast.flows.forget_failure import ForgetOutcome as ForgetOutcome
    from bootc_fast.flows.forget_failure import forget_failure as forget_failure
    from bootc_fast.flows.health import HealthOutcome as HealthOutcome
    from bootc_fast.flows.health import judge_health as judge_health
    from bootc_fast.flows.hold import HoldOutcome as HoldOutcome
    from bootc_fast.flows.hold import hold as hold
    from bootc_fast.flows.host_etc import diff_host as diff_host
    from bootc_fast.flows.host_etc import merge_host as merge_host
    from bootc_fast.flows.next_boot import NextBootOutcome as NextBootOutcome
    from bootc_fast.flows.next_boot import enter_next_boot as enter_next_boot
    from bootc_fast.flows.pin import PinOutcome as PinOutcome
    from bootc_fast.flows.pin import pin as pin
    from bootc_fast.flows.pin import unpin as unpin
    from bootc_fast.flows.rollback import RollbackOptions as RollbackOptions
    from bootc_fast.flows.rollback import rollback as rollback
    from bootc_fast.flows.status import get_status as get_status
    from bootc_fast.flows.trial_end import bless as bless
    from bootc_fast.flows.unstage import unstage as unstage
    from bootc_fast.ostree.deployment import OstreeBoot as OstreeBoot
    from bootc_fast.ostree.deployment import OstreeDeployment as OstreeDeployment
    from bootc_fast.ostree.deployment import OstreeImage as OstreeImage
    from bootc_fast.report.check import Concern as Concern
    from bootc_fast.report.check import check_status as check_status
    from bootc_fast.report.finalize import ErrorRecord as ErrorRecord
    from bootc_fast.report.finalize import OutcomeRecord as OutcomeRecord
    from bootc_fast.report.host_v1 import Document as Document
    from bootc_fast.report.host_v1 import make_document as make_document
    from bootc_fast.report.rollback import RollbackOutcome as RollbackOutcome
    from bootc_fast.report.status import DeploymentStatus as DeploymentStatus
    from bootc_fast.report.status import HostStatus as HostStatus
    from bootc_fast.report.status import NextBoot as NextBoot
    from bootc_fast.report.status import StagedStatus as StagedStatus
    from bootc_fast.report.trial import BlessOutcome as BlessOutcome
    from bootc_fast.report.unstage import UnstageOutcome as UnstageOutcome
    from bootc_fast.restart.full import restart_through_firmware as restart_through_firmware
    from bootc_fast.restart.prepared import PreparedRestart as PreparedRestart
    from bootc_fast.restart.soft import SoftRebootVerdict as SoftRebootVerdict
    from bootc_fast.restart.ways import RestartWay as RestartWay
    from bootc_fast.restart.ways import SoftRebootMode as SoftRebootMode
    from bootc_fast.restart.ways import reset_restart as reset_restart
    from bootc_fast.trial.checks import Check as Check
    from bootc_fast.trial.checks import CheckKind as CheckKind
    from bootc_fast.trial.checks import CheckResult as CheckResult
    from bootc_fast.trial.states import TrialRecord as TrialRecord
    from bootc_fast.trial.states import TrialState as TrialState
    from bootc_fast.types import BootsInstead as BootsInstead
    from bootc_fast.types import BootType as BootType
    from bootc_fast.types import Deployment as Deployment
    from bootc_fast.types import EtcAction as EtcAction
    from bootc_fast.types import EtcChange as EtcChange
    from bootc_fast.types import EtcConflict as EtcConflict
    from bootc_fast.types import EtcOperation as EtcOperation
    from bootc_fast.types import EtcReport as EtcReport
    from bootc_fast.types import FinalizeOutcome as FinalizeOutcome
    from bootc_fast.types import Loader as Loader
    from bootc_fast.types import Origin as Origin
    from bootc_fast.types import Result as Result
    from bootc_fast.types import Strategy as Strategy
    from bootc_fast.types import VerityDigest as VerityDigest

_HOMES = {
    "AppliedMerge": "etc.plan",
    "BootEntryError": "errors",
    "BootType": "types",
    "BootcFastError": "errors",
    "BootcFastErrorGroup": "errors",
    "BootsInstead": "types",
    "CancelledByUserError": "errors",
    "Check": "trial.checks",
    "CheckKind": "trial.checks",
    "CheckResult": "trial.checks",
    "CommandError": "errors",
    "Concern": "report.check",
    "Deployment": "types",
    "DeploymentStatus": "report.status",
    "DirectorySource": "etc.trees",
    "DoctorOutcome": "flows.doctor",
    "Document": "report.host_v1",
    "ErrorRecord": "report.finalize",
    "EspError": "errors",
    "EtcAction": "types",
    "EtcChange": "types",
    "EtcConflict": "types",
    "EtcConflictError": "errors",
    "EtcDiff": "etc.diff",
    "EtcDiffEntry": "etc.diff",
    "EtcOperation": "types",
    "EtcPatch": "etc.diff",
    "PatchSide": "etc.diff",
    "EtcReport": "types",
    "EtcSource": "etc.trees",
    "Event": "events",
    "EventSink": "events",
    "FailureReport": "flows.boot_complete",
    "FatFormatError": "errors",
    "FileSystemError": "errors",
    "FinalizeOptions": "flows.finalize_run",
    "FinalizeOutcome": "types",
    "Finding": "composefs.diagnosis",
    "ForgetOutcome": "flows.forget_failure",
    "BlessOutcome": "report.trial",
    "CountMethod": "boot.counting.records",
    "HealthOutcome": "flows.health",
    "RunningTrial": "boot.counting.records",
    "HoldOutcome": "flows.hold",
    "HostStatus": "report.status",
    "ImageFacts": "composefs.container",
    "ImageFormatError": "errors",
    "ImageName": "composefs.container",
    "ImageReadError": "errors",
    "ImageSource": "etc.trees",
    "InvalidStateError": "errors",
    "LimitExceededError": "errors",
    "Loader": "types",
    "LockedError": "errors",
    "ConflictChoice": "etc.policy",
    "MergePolicy": "etc.policy",
    "MountError": "errors",
    "NextBoot": "report.status",
    "NextBootOutcome": "flows.next_boot",
    "NoRollbackTargetError": "errors",
    "NotBootcHostError": "errors",
    "Origin": "types",
    "OstreeBoot": "ostree.deployment",
    "OstreeDeployment": "ostree.deployment",
    "OstreeImage": "ostree.deployment",
    "OutcomeRecord": "report.finalize",
    "PinOutcome": "flows.pin",
    "PolicyRule": "etc.policy",
    "Preference": "etc.policy",
    "PreferenceRule": "etc.policy",
    "PreparedRestart": "restart.prepared",
    "RestartWay": "restart.ways",
    "Result": "types",
    "RollbackOptions": "flows.rollback",
    "RollbackOutcome": "report.rollback",
    "SignatureError": "errors",
    "SoftRebootError": "errors",
    "SoftRebootMode": "restart.ways",
    "SoftRebootVerdict": "restart.soft",
    "StagedStatus": "report.status",
    "StepDone": "events",
    "StepProgress": "events",
    "StepStarted": "events",
    "StepTimeoutError": "errors",
    "Strategy": "types",
    "TrialFailedError": "errors",
    "TrialRecord": "trial.states",
    "TrialState": "trial.states",
    "UnstageOutcome": "report.unstage",
    "UsageError": "errors",
    "VerityDigest": "types",
    "VerityMismatchError": "errors",
    "channel_sink": "events",
    "check_status": "report.check",
    "diff_etc": "etc.merge",
    "diff_host": "flows.host_etc",
    "doctor": "flows.doctor",
    "enter_next_boot": "flows.next_boot",
    "finalize_staged": "flows.finalize",
    "forget_failure": "flows.forget_failure",
    "get_status": "flows.status",
    "hold": "flows.hold",
    "ignore_event": "events",
    "bless": "flows.trial_end",
    "judge_health": "flows.health",
    "make_document": "report.host_v1",
    "merge_etc": "etc.merge",
    "merge_host": "flows.host_etc",
    "pin": "flows.pin",
    "report_last_finalize": "flows.boot_complete",
    "reset_restart": "restart.ways",
    "restart_through_firmware": "restart.full",
    "rollback": "flows.rollback",
    "unpin": "flows.pin",
    "unstage": "flows.unstage",
}

__all__ = [
    "AppliedMerge",
    "BlessOutcome",
    "BootEntryError",
    "BootType",
    "BootcFastError",
    "BootcFastErrorGroup",
    "BootsInstead",
    "CancelledByUserError",
    "Check",
    "CheckKind",
    "CheckResult",
    "CommandError",
    "Concern",
    "ConflictChoice",
    "CountMethod",
    "Deployment",
    "DeploymentStatus",
    "DirectorySource",
    "DoctorOutcome",
    "Document",
    "ErrorRecord",
    "EspError",
    "EtcAction",
    "EtcChange",
    "EtcConflict",
    "EtcConflictError",
    "EtcDiff",
    "EtcDiffEntry",
    "EtcOperation",
    "EtcPatch",
    "EtcReport",
    "EtcSource",
    "Event",
    "EventSink",
    "FailureReport",
    "FatFormatError",
    "FileSystemError",
    "FinalizeOptions",
    "FinalizeOutcome",
    "Finding",
    "ForgetOutcome",
    "HealthOutcome",
    "HoldOutcome",
    "HostStatus",
    "ImageFacts",
    "ImageFormatError",
    "ImageName",
    "ImageReadError",
    "ImageSource",
    "InvalidStateError",
    "LimitExceededError",
    "Loader",
    "LockedError",
    "MergePolicy",
    "MountError",
    "NextBoot",
    "NextBootOutcome",
    "NoRollbackTargetError",
    "NotBootcHostError",
    "Origin",
    "OstreeBoot",
    "OstreeDeployment",
    "OstreeImage",
    "OutcomeRecord",
    "PatchSide",
    "PinOutcome",
    "PolicyRule",
    "Preference",
    "PreferenceRule",
    "PreparedRestart",
    "RestartWay",
    "Result",
    "RollbackOptions",
    "RollbackOutcome",
    "RunningTrial",
    "SignatureError",
    "SoftRebootError",
    "SoftRebootMode",
    "SoftRebootVerdict",
    "StagedStatus",
    "StepDone",
    "StepProgress",
    "StepStarted",
    "StepTimeoutError",
    "Strategy",
    "TrialFailedError",
    "TrialRecord",
    "TrialState",
    "UnstageOutcome",
    "UsageError",
    "VerityDigest",
    "VerityMismatchError",
    "bless",
    "channel_sink",
    "check_status",
    "diff_etc",
    "diff_host",
    "doctor",
    "enter_next_boot",
    "finalize_staged",
    "forget_failure",
    "get_status",
    "hold",
    "ignore_event",
    "judge_health",
    "make_document",
    "merge_etc",
    "merge_host",
    "pin",
    "report_last_finalize",
    "reset_restart",
    "restart_through_firmware",
    "rollback",
    "unpin",
    "unstage",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """All public names, imported or not."""
        return sorted({*globals(), *__all__})
