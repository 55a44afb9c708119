"""What is known of an ostree host's deployments."""

from __future__ import annotations

from bootc_fast.records import dataclass, field


@dataclass(frozen=True, slots=True)
class OstreeImage:
    """A container image, as the metadata of a commit tells of it; None where it does not.

    Attributes:
        manifest_digest: ``sha256:<hex>``.
        version: Its label, else the commit's.
        timestamp: When it was built, ISO 8601, UTC.
        architecture: E.g. ``amd64``.
    """

    manifest_digest: str | None = None
    version: str | None = None
    timestamp: str | None = None
    architecture: str | None = None


@dataclass(frozen=True, slots=True)
class OstreeBoot:
    """What the boot entry starts.

    Attributes:
        linux: Path on the file system that holds ``/boot``; None where the entry names none.
        initrds: As `linux`, in the entry's order.
        options: The kernel's command line.
    """

    linux: str | None = None
    initrds: tuple[str, ...] = ()
    options: str = ""


@dataclass(frozen=True, slots=True)
class OstreeDeployment:
    """One deployment.

    Attributes:
        stateroot: Whose ``/var`` it has; also called osname.
        checksum: Of its commit, 64 hex digits.
        serial: Tells deployments of one commit apart.
        boot_checksum: Over its kernel and initrd; empty for a staged one under ``--root``.
        is_pinned: Never removed as garbage.
        is_staged: Becomes the default at shutdown.
        is_finalization_locked: Staged, and it stays so until it is unlocked.
        unlocked: ``development``, ``hotfix`` or ``transient`` where /usr has an overlay, else ``none``.
        reference: ``container-image-reference`` of its origin; None where it did not come from a container.
        is_changed_locally: The origin names packages or overrides that the image does not have.
        image: Its container image.
        cached_update: The newer image that was looked up last; None where none was.
        title: Of its boot entry.
        boot: Of its boot entry; a staged one has none yet.
        soft_reboot_obstacles: Why no soft reboot leads to it, in words; None where that cannot be told.
        problems: What cannot be read, in words for people.
    """

    stateroot: str
    checksum: str
    serial: int
    boot_checksum: str = ""
    is_pinned: bool = False
    is_staged: bool = False
    is_finalization_locked: bool = False
    unlocked: str = "none"
    reference: str | None = None
    is_changed_locally: bool = False
    image: OstreeImage = field(default_factory=OstreeImage)
    cached_update: OstreeImage | None = None
    title: str | None = None
    boot: OstreeBoot = field(default_factory=OstreeBoot)
    soft_reboot_obstacles: tuple[str, ...] | None = None
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``<commit>.<serial>``, unique in its stateroot, as `ostree admin status` prints it."""
        return f"{self.checksum}.{self.serial}"

    @property
    def key(self) -> tuple[str, str, int]:
        """Stateroot, commit and serial: unique on the host."""
        return self.stateroot, self.checksum, self.serial

    @property
    def path(self) -> str:
        """Its directory below the physical root."""
        return f"ostree/deploy/{self.stateroot}/deploy/{self.name}"


@dataclass(frozen=True, slots=True)
class OstreeSurvey:
    """All deployments of a host.

    Attributes:
        booted: What runs.
        staged: What becomes the default at shutdown; None where nothing is staged.
        rollback: First of the booted stateroot's others; None where there is none.
        order: All but the staged one, in libostree's order; the first boots next.
    """

    booted: OstreeDeployment
    staged: OstreeDeployment | None
    rollback: OstreeDeployment | None
    order: tuple[OstreeDeployment, ...]

    @property
    def rollback_queued(self) -> bool:
        """The rollback deployment stands before the booted one."""
        return self.rollback is not None and self.order.index(self.rollback) < self.order.index(self.booted)

    def order_with_first(self, first: OstreeDeployment) -> tuple[OstreeDeployment, ...]:
        """`first`, then what runs (or, where that is first, the rollback deployment), then all others as they are."""
        second = self.rollback if first == self.booted else self.booted
        head = [first, *([second] if second is not None else [])]
        return (*head, *(one for one in self.order if one not in head))
