"""What every flow looks at first: the booted deployment, the staged one, and all that have state."""

from __future__ import annotations

import enum
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from bootc_fast import _core
from bootc_fast.boot.loaders.entry import KnownDigests
from bootc_fast.composefs.deployments import list_deployments, read_marker
from bootc_fast.errors import BootcFastError, BootEntryError, FileSystemError, InvalidStateError, VerityMismatchError
from bootc_fast.machine.booted import read_booted
from bootc_fast.machine.cmdline import parse_digest
from bootc_fast.machine.native import run_blocking, run_native
from bootc_fast.records import dataclass, replace
from bootc_fast.text import describe_error, escape_bytes, reason_of, shorten_digest
from bootc_fast.types import Algorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from bootc_fast.machine.host import Host
    from bootc_fast.machine.native import Tally
    from bootc_fast.types import Booted, Deployment, Origin, StagedMarker, VerityDigest

T = TypeVar("T")

_SHA256_HEX_CHARS = 64
_STAGE_HINT = "stage the update again with `bootc upgrade`"


@dataclass(frozen=True, slots=True)
class Survey:
    """A snapshot of a host's deployments.

    Attributes:
        host: Where.
        booted: What runs.
        marker: What is staged; None too where the marker names the booted deployment, which a soft reboot leaves.
        deployments: Every one that has a state directory.
        images: Every digest that has an image, or the link of one.
        marker_problem: Why the marker cannot be read, where that is no error; `marker` is None then.
    """

    host: Host
    booted: Booted
    marker: StagedMarker | None
    deployments: tuple[Deployment, ...]
    images: tuple[VerityDigest, ...] = ()
    marker_problem: str | None = None

    @property
    def known(self) -> KnownDigests:
        """Deployments whose boot entries are ours."""
        return KnownDigests(self.with_state.union(self.images), self.with_state)

    @property
    def with_state(self) -> frozenset[VerityDigest]:
        """Deployments whose boot files stay whatever the entries say."""
        chosen = {self.booted.digest, *([self.marker.digest] if self.marker else [])}
        return frozenset(chosen | {one.digest for one in self.deployments})

    @property
    def kept(self) -> tuple[VerityDigest, ...]:
        """Other deployments that still have state and image, so that they can boot."""
        chosen = {self.booted.digest, self.marker.digest if self.marker else None}
        return tuple(one.digest for one in self.deployments if one.has_image and one.digest not in chosen)

    def refuse_not_handled(self, what: str, *digests: VerityDigest) -> None:
        """Refuse where one of these deployments boots in a way of bootc's that is not ours to arrange.

        Raises:
            BootEntryError: One does.
        """
        for digest in digests:
            origin = self.find_origin(digest)
            if origin is not None and origin.not_handled is not None:
                message = f"{what}: deployment {shorten_digest(digest)} is not handled: {origin.not_handled}"
                raise BootEntryError(message, hint="leave this host to bootc itself, and our units off")

    def find_deployment(self, digest: VerityDigest) -> Deployment | None:
        """Find a deployment's state; None where it has no state directory."""
        return next((one for one in self.deployments if one.digest == digest), None)

    def find_origin(self, digest: VerityDigest) -> Origin | None:
        """Find a deployment's origin; None where it has no state directory, or no origin that can be read."""
        deployment = self.find_deployment(digest)
        return None if deployment is None else deployment.origin


async def read_survey(host: Host, *, needs_marker: bool = True) -> Survey:
    """Look at a host's deployments; reads some small files, writes nothing.

    Args:
        host: Which.
        needs_marker: Without, a marker that cannot be read is no error: whoever goes back needs none.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: Command line or marker are malformed.
        FileSystemError: The state directories cannot be listed.
    """
    problems: list[str] = []

    def pass_over(part: SurveyPart, error: Exception) -> None:
        if needs_marker or part is not SurveyPart.MARKER:
            raise error
        problems.append(str(error))

    survey = await run_blocking(look_at_deployments, host, on_error=pass_over)
    return replace(survey, marker_problem=problems[0]) if problems else survey


class SurveyPart(enum.StrEnum):
    """What a look at the deployments consists of besides what runs."""

    MARKER = "the staged update"
    DEPLOYMENTS = "deployments"
    IMAGES = "images"

    @property
    def verb(self) -> str:
        """What cannot be done with it where it is unreadable."""
        return "told" if self is SurveyPart.MARKER else "listed"


def look_at_deployments(host: Host, *, on_error: Callable[[SurveyPart, Exception], None]) -> Survey:
    """Look at a host's deployments; the one place where what runs and what is staged are told. Blocks.

    Args:
        host: Which.
        on_error: Gets what cannot be read; where it returns, that part is as if nothing was there.

    Raises:
        NotBootcHostError: The host is none of ours.
        InvalidStateError: What runs cannot be told.
    """
    booted = read_booted(host)

    def attempt(part: SurveyPart, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (BootcFastError, OSError) as error:
            on_error(part, error)
            return otherwise

    nothing: tuple[Deployment, ...] = ()
    no_images: tuple[VerityDigest, ...] = ()
    marker = attempt(SurveyPart.MARKER, lambda: read_marker(host, booted), None)
    deployments = attempt(SurveyPart.DEPLOYMENTS, lambda: tuple(list_deployments(host)), nothing)
    return Survey(host, booted, marker, deployments, attempt(SurveyPart.IMAGES, lambda: list_images(host), no_images))


def list_images(host: Host) -> tuple[VerityDigest, ...]:
    """List the digests in the repository's ``images``; other names there are nothing of ours.

    Raises:
        FileSystemError: The directory cannot be listed; an absent one holds none.
    """
    found: list[VerityDigest] = []
    try:
        names = host.list_directory(host.images)
    except OSError as error:
        raise FileSystemError(f"listing {host.images}: {reason_of(error)}") from error
    for name in names:
        with suppress(InvalidStateError):
            found.append(parse_digest(escape_bytes(name), what="listing images"))
    return tuple(found)


def check_staged_pieces(host: Host, digest: VerityDigest) -> None:
    """Check that a staged deployment has what it needs outside the boot partition.

    Raises:
        InvalidStateError: Pieces are missing, or symlinks; the message names all of them.
        FileSystemError: They cannot be looked at.
    """
    directories = (host.state_dir(digest), host.state_dir(digest) / "etc")
    try:
        missing = [str(path) for path in directories if not _is(host, path, stat.S_ISDIR)]
        links = [str(path) for path in directories if _is(host, path, stat.S_ISLNK, follow=False)]
        if not _is(host, host.image_file(digest), stat.S_ISREG):
            missing.append(str(host.image_file(digest)))
    except OSError as error:
        raise FileSystemError(f"looking at the staged deployment: {describe_error(error)}") from error
    if links:
        raise InvalidStateError(
            f"looking at the staged deployment: {' and '.join(links)} is a symlink",
            hint="what it leads to would be overwritten: remove it and stage the update again",
        )
    if missing:
        raise InvalidStateError(f"looking at the staged deployment: missing {', '.join(missing)}", hint=_STAGE_HINT)


def _is(host: Host, path: Path, is_kind: Callable[[int], bool], *, follow: bool = True) -> bool:
    found = host.find_status(path, follow=follow)
    return found is not None and is_kind(found.st_mode)


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image whose bytes are what its name says.

    Attributes:
        fd: Open for reading, as long as the stack that it was opened on.
        has_kernel_verity: The kernel checks every read.
    """

    fd: int
    has_kernel_verity: bool


def judge_kernel_verity(survey: Survey, digest: VerityDigest, images: Iterable[OpenImage]) -> tuple[str, ...]:
    """Refuse a new default that the initrd would refuse: one without the kernel's fs-verity where that is required.

    Only this machine's own file system can tell: a lab's directory need not be able to have fs-verity.

    Returns:
        A warning, or nothing.

    Raises:
        VerityMismatchError: It would.
    """
    if not survey.host.is_live or all(image.has_kernel_verity for image in images):
        return ()
    if not survey.booted.missing_verity_allowed:
        raise VerityMismatchError(
            "verifying the images: fs-verity is required on this host, and an image does not have it",
            path=str(survey.host.image_file(digest)),
            expected=digest,
            found="",
            hint="pull the image again with `bootc upgrade`",
        )
    return ("an image has no fs-verity: its digest was computed instead, and matches",)


async def open_image(
    host: Host, digest: VerityDigest, stack: AsyncExitStack, *, tally: Tally | None = None
) -> OpenImage:
    """Open a deployment's image and verify it before a byte of it is believed.

    Takes the kernel's measurement where the file has fs-verity, else reads the whole file.
    Cancellation: within 50 ms; the descriptor belongs to `stack`.

    Args:
        host: Whose.
        digest: Of the image.
        stack: Closes it.
        tally: Told how many of its bytes are read, where they are.

    Raises:
        InvalidStateError: There is no such image.
        VerityMismatchError: It is another one.
        FileSystemError: It cannot be read.

    Source:
        Spec host.md, "EROFS image and objects", last paragraph.
    """
    path = host.image_file(digest)
    try:
        # Without waiting, in case somebody put a FIFO there.
        fd = await run_blocking(host.open_file, path, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        status = await run_blocking(os.fstat, fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidStateError(f"opening the image {path}: it is not a regular file")
        measured = await run_blocking(_core.measure_fd, fd)
        algorithm = Algorithm.SHA256 if len(digest) == _SHA256_HEX_CHARS else Algorithm.SHA512
        found = measured
        if found is None:
            progress = tally.add(status.st_size) if tally else None
            found = await run_native(_core.digest_fd, fd, algorithm=algorithm, progress=progress)
    except FileNotFoundError as error:
        raise InvalidStateError(f"opening the image {path}: there is no such file") from error
    except OSError as error:
        raise FileSystemError(f"reading the image {path}: {reason_of(error)}") from error
    if found != digest:
        raise VerityMismatchError(
            f"verifying the image {path}: its digest is {shorten_digest(found)}, not {shorten_digest(digest)}",
            path=str(path),
            expected=digest,
            found=found,
            hint="the image is damaged; pull it again with `bootc upgrade`",
        )
    return OpenImage(fd, has_kernel_verity=measured is not None)
