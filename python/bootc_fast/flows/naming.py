"""Which deployment somebody means: by its digest, the begin of one, its version, or the tag of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.boot.entries.choose import choose_entry
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.container import parse_image_reference, read_image_facts
from bootc_fast.errors import BootcFastError, UsageError
from bootc_fast.flows.steps import single_error
from bootc_fast.records import dataclass
from bootc_fast.text import describe_error, escape, escape_bytes, flatten, shorten_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AsyncExitStack

    from bootc_fast.boot.entries.menu import BootMenu
    from bootc_fast.composefs.survey import Survey
    from bootc_fast.types import Loader, VerityDigest

MIN_PREFIX_CHARS = 8


@dataclass(frozen=True, slots=True)
class Named:
    """A deployment and what it goes by beside its digest.

    Attributes:
        digest: Its digest.
        labels: Versions and the image's tag.
    """

    digest: VerityDigest
    labels: frozenset[str] = frozenset()


def list_names(survey: Survey, menu: BootMenu | None, digests: Iterable[VerityDigest]) -> list[Named]:
    """List what deployments go by: the versions that `status` shows, and the tag of the image. Blocks.

    Args:
        survey: The host's deployments.
        menu: Its boot entries; None where they cannot be read.
        digests: Which.
    """
    return [Named(digest, frozenset(filter(None, _list_labels(survey, menu, digest)))) for digest in digests]


def _list_labels(survey: Survey, menu: BootMenu | None, digest: VerityDigest) -> Iterable[str | None]:
    deployment = survey.find_deployment(digest)
    if deployment is not None:
        yield read_image_facts(survey.host, deployment).version
        reference = deployment.origin.image_reference if deployment.origin else None
        yield None if reference is None else find_tag(reference)
    staged = survey.marker.digest if survey.marker else None
    entry = None if menu is None else choose_entry(menu, digest, prefers_staged=digest == staged)
    if entry is not None and entry.version is not None:
        yield escape_bytes(entry.version)


def find_tag(reference: str) -> str | None:
    """Return the tag in an origin's ``container-image-reference``; None where it has none."""
    name = parse_image_reference(reference)
    if name is None:
        return None
    # A port is no tag, and what follows an at sign is a digest.
    tag = name.image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return tag or None


def find_named(text: str, candidates: Sequence[Named], *, doing: str) -> VerityDigest | None:
    """Find the deployment that is meant: a digest or its first 8 characters or more, else a version or tag.

    Args:
        text: What was asked for.
        candidates: Those that can be meant.
        doing: What is being done, for the error.

    Returns:
        None where there is none.

    Raises:
        UsageError: Several are meant; it names them.
    """
    lower = text.lower()
    exact = [one.digest for one in candidates if one.digest == lower]
    if exact:
        return exact[0]
    begin = [one.digest for one in candidates if len(lower) >= MIN_PREFIX_CHARS and one.digest.startswith(lower)]
    if len(begin) > 1:
        raise UsageError(f"{doing}: {len(begin)} deployments begin with {escape(text)}", hint=_name_all(begin))
    if begin:
        return begin[0]
    found = [one.digest for one in candidates if text in one.labels]
    if len(found) > 1:
        raise UsageError(
            f"{doing}: {len(found)} deployments have the version or tag {escape(text)}", hint=_name_all(found)
        )
    return found[0] if found else None


def choose_deployment(
    survey: Survey, menu: BootMenu | None, text: str, also: Iterable[VerityDigest], *, doing: str, hint: str
) -> VerityDigest:
    """Find the deployment that is meant among all that the host knows; blocks.

    Args:
        survey: The host's deployments.
        menu: Its boot entries; None where they cannot be read.
        text: What was asked for.
        also: Further ones that may be meant, and may be gone.
        doing: What is being done, for the error.
        hint: What to name instead, where there is none.

    Raises:
        UsageError: None is meant, or several.
    """
    order = menu.own_order if menu is not None else ()
    staged = [survey.marker.digest] if survey.marker else []
    known = dict.fromkeys((*order, *staged, *(one.digest for one in survey.deployments), *also))
    found = find_named(text, list_names(survey, menu, known), doing=doing)
    if found is None:
        raise UsageError(f"{doing}: there is no deployment {escape(text)}", hint=hint)
    return found


async def try_read_menu(
    survey: Survey, stack: AsyncExitStack, loader: Loader | None
) -> tuple[BootMenu | None, list[str]]:
    """Read the boot entries, of which only names are wanted.

    Returns:
        None where they cannot be read, and the warnings that say so.
    """
    try:
        with single_error():
            return (await open_boot_snapshot(survey, stack, loader=loader, read_only=True)).menu, []
    except (BootcFastError, OSError, ExceptionGroup) as error:
        return None, [f"the boot entries cannot be read: {describe_error(leaf)}" for leaf in flatten(error)]


def _name_all(digests: Sequence[VerityDigest]) -> str:
    return f"name one by its digest: {', '.join(map(shorten_digest, digests))}"
