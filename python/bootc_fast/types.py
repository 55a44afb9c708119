"""Facts that the modules hand to each other: frozen, small, and free of behaviour.

Imports nothing of ours. A fact that only one module uses lives in that module.
"""

from __future__ import annotations

import enum

from bootc_fast.records import dataclass, field

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NewType

    VerityDigest = NewType("VerityDigest", str)
    """An fs-verity digest in lower-case hex, 64 or 128 characters; made by ``deployments.parse_digest`` only."""
else:
    VerityDigest = str


class Algorithm(enum.StrEnum):
    """Hash function of an fs-verity digest."""

    SHA256 = "sha256"
    SHA512 = "sha512"


class Loader(enum.StrEnum):
    """What reads the boot entries."""

    SYSTEMD_BOOT = "systemd-boot"
    GRUB = "grub"
    GRUB_CC = "grub-cc"


class BootType(enum.StrEnum):
    """How a deployment is booted; the values stand in origin files."""

    BLS = "bls"
    UKI = "uki"


class Strategy(enum.StrEnum):
    """What happens on a merge conflict (spec etc-merge.md, "Conflicts")."""

    FAIL = "fail"
    CURRENT = "current"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Booted:
    """The deployment that runs.

    Attributes:
        digest: Its image.
        missing_verity_allowed: The digest stood with a leading ``?``.
        transient_root: The root is ``transient:composefs=…``.
        source: Where the digest was found: ``"mountinfo"`` or ``"cmdline"``.
    """

    digest: VerityDigest
    missing_verity_allowed: bool = False
    transient_root: bool = False
    source: str = "mountinfo"


@dataclass(frozen=True, slots=True)
class StagedMarker:
    """``/run/composefs/staged-deployment``."""

    digest: VerityDigest
    finalization_locked: bool = False


@dataclass(frozen=True, slots=True)
class BootsInstead:
    """What the loader boots in place of the deployment that was to boot next: an entry that is not of this host.

    Attributes:
        entry_name: What the loader calls it.
        reason: Why it boots that one, in words for people.
        remedy: What makes it boot this host's first entry, in words for people.
    """

    entry_name: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Origin:
    """``<digest>.origin``; everything may be absent in files of older versions.

    Attributes:
        image_reference: As it stands, e.g. ``ostree-unverified-image:docker://registry.example/example/os:latest``.
        boot_type: ``[boot] boot_type``.
        boot_digest: SHA-256 hex over kernel and initrd.
        manifest_digest: ``sha256:<hex>`` of the OCI manifest.
        not_handled: A boot type of bootc's whose boot files are not ours to arrange, e.g. ``aboot``; None for ours.
    """

    image_reference: str | None = None
    boot_type: BootType | None = None
    boot_digest: str | None = None
    manifest_digest: str | None = None
    not_handled: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A state directory and what belongs to it.

    Attributes:
        digest: Its image, and the name of its state directory.
        origin: None where the file is missing or unreadable; `problems` says so.
        has_image: ``composefs/images/<digest>`` leads to a regular file.
        problems: What is broken, in words for people; empty when nothing is.
        mtime_s: Of the state directory, seconds since 1970.
        has_etc: Its ``etc`` is a directory; without it the initramfs stops.
        unread: Why image or state could not be looked at; they count as there then. None where they could.
        origin_unread: Why the origin could not be read, where that is the disk's doing and not the file's.
    """

    digest: VerityDigest
    origin: Origin | None
    has_image: bool
    problems: tuple[str, ...] = ()
    mtime_s: float = 0.0
    has_etc: bool = True
    unread: str | None = None
    origin_unread: str | None = None


@dataclass(frozen=True, slots=True)
class EtcConflict:
    """Two changes of one path that no rule can join.

    Attributes:
        path: Below /etc, without a leading slash.
        current: What the admin has there, in words ("file, changed").
        new: What the new image has there, in words.
        strategy: What the policy chose.
        saved_as: Path of the version that lost, where one is kept beside the one that won.
    """

    path: bytes
    current: str
    new: str
    strategy: Strategy
    saved_as: bytes | None = None


class EtcAction(enum.StrEnum):
    """What an operation does to a destination (spec etc-merge.md, "Writing R")."""

    UNLOCK = "unlock"
    REMOVE = "remove"
    MAKE_DIRECTORY = "make-directory"
    WRITE_FILE = "write-file"
    LINK = "link"
    MAKE_SYMLINK = "make-symlink"
    MAKE_NODE = "make-node"
    SET_ATTRIBUTES = "set-attributes"


@dataclass(frozen=True, slots=True)
class EtcOperation:
    """One step that turns a destination into the merge result.

    Attributes:
        action: What is done.
        path: Below the destination, without a leading slash; empty for the destination itself.
        size_bytes: Of the file written.
        entries: That are removed, the path itself included.
        link_to: The other name of the file linked.
        attributes: Which are set: ``owner``, ``mode``, ``xattrs``, ``mtime``.
    """

    action: EtcAction
    path: bytes
    size_bytes: int | None = None
    entries: int | None = None
    link_to: bytes | None = None
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EtcChange:
    """One line of a merge report: ``mark path reason``."""

    path: bytes
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EtcReport:
    """What a merge did or would do (spec etc-merge.md, "Report").

    Attributes:
        kept: Paths where the admin's version stays.
        deleted: Paths the admin deleted that stay deleted.
        image_changes_ignored: Changes of the image that the admin's version hides.
        image_additions_kept: What the image added below a directory the admin deleted.
        conflicts: All of them, whatever the strategy.
        warnings: E.g. mount points not crossed, sockets ignored; the reason says what.
        dangling_links: Symlinks in the result whose target neither the new image nor the result has.
        counts: ``entries_pristine``, ``entries_current``, ``entries_new``, ``entries_result``, ``operations``
            and one count a list.
        bytes_copied: Content written.
        phase_s: Seconds a phase took: ``scan``, ``plan``, ``apply``, ``sync``.
    """

    kept: tuple[EtcChange, ...] = ()
    deleted: tuple[EtcChange, ...] = ()
    image_changes_ignored: tuple[EtcChange, ...] = ()
    image_additions_kept: tuple[EtcChange, ...] = ()
    conflicts: tuple[EtcConflict, ...] = ()
    warnings: tuple[EtcChange, ...] = ()
    dangling_links: tuple[EtcChange, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    bytes_copied: int = 0
    phase_s: Mapping[str, float] = field(default_factory=dict)


class Result(enum.StrEnum):
    """How a finalize ended."""

    NOTHING_STAGED = "nothing-staged"
    LOCKED = "finalization-locked"
    DRY_RUN = "dry-run"
    DONE = "done"
    ALREADY_DONE = "already-done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class FinalizeOutcome:
    """What a finalize did; also the record in ``last-finalize.json``.

    Attributes:
        result: How it ended.
        booted: The deployment that ran.
        staged: The deployment that was to become the default; None when nothing was staged.
        etc: The merge's report; None where it did not get that far, or /etc is transient.
        next_boot: File name of the entry of ours that the loader takes first now, read back.
        boots_instead: What boots in its place; None where it boots.
        warnings: Everything that did not stop it.
        phase_s: Seconds a phase took: ``look``, ``decide``, ``prepare``, ``commit``, ``tidy``.
    """

    result: Result
    booted: VerityDigest | None = None
    staged: VerityDigest | None = None
    etc: EtcReport | None = None
    next_boot: str | None = None
    boots_instead: BootsInstead | None = None
    warnings: tuple[str, ...] = ()
    phase_s: Mapping[str, float] = field(default_factory=dict)
