"""Create and stage, as the command line and programs use them: a source tree in, a deployment out."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bootc_fast.events import ignore_event, run_step
from bootc_fast.lab import deploy
from bootc_fast.lab.generated import generated_rootfs
from bootc_fast.lab.layout import LabHost, open_lab
from bootc_fast.lab.rootfs import RootTree, check_source, open_rootfs
from bootc_fast.types import Algorithm, BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from bootc_fast.events import EventSink


def create(
    directory: Path,
    *,
    source: Path | None = None,
    loader: Loader = Loader.SYSTEMD_BOOT,
    boot_type: BootType = BootType.BLS,
    algorithm: Algorithm = Algorithm.SHA512,
    on_event: EventSink = ignore_event,
) -> LabHost:
    """Make a host with one deployment, booted.

    An error leaves what was written so far; the directory can be removed.

    Args:
        directory: New or empty; becomes readable by its owner only.
        source: A root file tree: a directory or a tar archive. The small generated OS where None.
        loader: What reads the boot entries.
        boot_type: How the deployment boots.
        algorithm: Of image and object digests.
        on_event: Gets steps and progress.

    Raises:
        UsageError: The directory is not empty, or the source has no kernel.
        CommandError: A tool failed (tar, cp).
        OSError: The source cannot be read, or the directory not written.

    Source:
        Spec commands.md, "The lab".
    """
    host = LabHost(directory, loader, boot_type, algorithm)
    if source is not None:
        check_source(source)
    host.make_skeleton()
    with _open_source(host, source, on_event) as tree:
        deploy.install(host, tree, on_event)
    return host


def stage(
    directory: Path,
    *,
    source: Path | None = None,
    boot_type: BootType | None = None,
    locked: bool = False,
    again: bool = False,
    on_event: EventSink = ignore_event,
) -> VerityDigest:
    """Stage another deployment, as ``bootc upgrade`` (or, locked, its ``--download-only``) does.

    Args:
        directory: A lab host.
        source: As for :func:`create`; the generated OS's next version where None.
        boot_type: As the booted deployment where None.
        locked: Not to be finalized at shutdown.
        again: The newest deployment that does not run, once more; `source` and `boot_type` do not count.
        on_event: Gets steps and progress.

    Returns:
        The staged deployment's digest.

    Raises:
        UsageError: No lab host there, or the source has no kernel.
        InvalidStateError: This image is deployed already.
        CommandError: A tool failed (tar, cp).
        OSError: The source cannot be read, or the host not written.
    """
    host = open_lab(directory)
    if again:
        return deploy.stage_again(host, locked=locked)
    with _open_source(host, source, on_event) as tree:
        return deploy.stage(host, tree, boot_type=boot_type, locked=locked, on_event=on_event)


@contextmanager
def _open_source(host: LabHost, source: Path | None, on_event: EventSink) -> Generator[RootTree]:
    with ExitStack() as stack:
        with run_step(on_event, "source", "Making the files of the image", unit="bytes") as tell:
            if source is None:
                tree = stack.enter_context(generated_rootfs(_next_version(host), scratch=host.root))
            else:
                tree = stack.enter_context(open_rootfs(source, scratch=host.root, progress=tell))
        yield tree


def _next_version(host: LabHost) -> int:
    """One more than the highest version that a boot entry or menuentry of the generated OS shows."""
    texts = [path.read_text(errors="replace") for path in host.boot_dir.glob("loader/entries*/*.conf")]
    texts += [path.read_text(errors="replace") for path in host.boot_dir.glob("grub2/user.cfg*")]
    found = [int(number) for text in texts for number in re.findall(r"Lab OS (\d+)", text)]
    return max(found, default=0) + 1
