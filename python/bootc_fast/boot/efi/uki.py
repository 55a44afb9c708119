"""Unified kernel images: their sections, and which deployment they boot."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bootc_fast.boot.efi.pe import PeFile, parse_pe
from bootc_fast.errors import BootEntryError, InvalidStateError
from bootc_fast.machine.cmdline import parse_composefs_arguments
from bootc_fast.records import dataclass, field
from bootc_fast.text import shorten_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bootc_fast.types import VerityDigest


MAX_TEXT_BYTES = 1 << 20
"""Longest section that is text; the kernel's command line has 2 KiB."""


@dataclass(frozen=True, slots=True)
class Uki:
    """A UKI, or an addon of one.

    Attributes:
        pe: The file.
        cmdline: ``.cmdline`` without what follows its first NUL and without white space around it; None where absent.
        os_release: ``.osrel``, e.g. ``{"ID": "fedora", …}``.
        uname: ``.uname``: the kernel's release.
        boot_digest: SHA-256 hex over ``.linux`` followed by ``.initrd``; None where one of them is absent.
    """

    pe: PeFile = field(repr=False)
    cmdline: str | None
    os_release: Mapping[str, str]
    uname: str | None
    boot_digest: str | None

    def close(self) -> None:
        """Let the file go; what was read of it stays."""
        self.pe.close()


def _text_of(pe: PeFile, name: str) -> str | None:
    parts = pe.find_parts(name)
    if parts is None:
        return None
    length = sum(part[1] for part in parts)
    if length > MAX_TEXT_BYTES:
        raise BootEntryError(f"reading a UKI: its section {name} has {length} bytes, not at most {MAX_TEXT_BYTES}")
    # The kernel takes any bytes as its command line; only what we look for in it has to be text.
    return (pe.read_section(name) or b"").partition(b"\0")[0].decode("utf-8", "surrogateescape").strip()


def parse_os_release(text: str) -> dict[str, str]:
    """Parse os-release; a line that is no assignment is left out.

    Source:
        os-release(5).
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or key.startswith("#"):
            continue
        try:
            found[key] = "".join(shlex.split(value))
        except ValueError:
            continue
    return found


def _boot_digest(pe: PeFile, check: Callable[[], object] | None) -> str | None:
    linux, initrd = pe.find_parts(".linux"), pe.find_parts(".initrd")
    if linux is None or initrd is None:
        return None
    return pe.image.hash([*linux, *initrd], ["sha256"], check=check)[0].hex()


def parse_uki(source: bytes | int, *, check: Callable[[], object] | None = None) -> Uki:
    """Parse a UKI; kernel and initrd are hashed, some 50 ms for 100 MB.

    Args:
        source: The whole file, or an open descriptor of it, which may be closed afterwards.
        check: Called every 20 ms; what it raises ends the call.

    Raises:
        BootEntryError: It is no PE file, or one whose parts do not lie within it.
        OSError: It cannot be read.

    Source:
        UAPI Group, "Unified Kernel Image"; spec host.md, "Origin file" for the digest.
    """
    with ExitStack() as on_failure:
        pe = parse_pe(source, check=check)
        on_failure.callback(pe.close)
        os_release = parse_os_release(_text_of(pe, ".osrel") or "")
        uki = Uki(pe, _text_of(pe, ".cmdline"), os_release, _text_of(pe, ".uname"), _boot_digest(pe, check))
        on_failure.pop_all()
    return uki


def list_digests(uki: Uki) -> tuple[VerityDigest, ...]:
    """Return the images that the command line inside names; empty where there is none.

    Raises:
        BootEntryError: It names one that is no digest.
    """
    try:
        arguments = parse_composefs_arguments(uki.cmdline or "", what="reading the UKI's .cmdline")
    except InvalidStateError as error:
        raise BootEntryError(str(error)) from error
    return tuple(argument.digest for argument in arguments)


def check_uki(uki: Uki, *, digest: VerityDigest) -> None:
    """Check that a UKI boots the deployment it is staged for.

    Raises:
        BootEntryError: It has no kernel, or its ``.cmdline`` names no image, or only others.

    Source:
        Spec boot.md, "UKIs".
    """
    if uki.pe.find_parts(".linux") is None:
        raise BootEntryError("checking the UKI: it has no section .linux, so it is no kernel")
    named = list_digests(uki)
    if not named:
        raise BootEntryError("checking the UKI: its .cmdline names no composefs image")
    if digest not in named:
        others = ", ".join(map(shorten_digest, named))
        message = f"checking the UKI: its .cmdline names {others}, not the deployment {shorten_digest(digest)}"
        raise BootEntryError(message, hint="the image was built with a UKI of another build: stage it again")
