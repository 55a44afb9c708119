"""Telling the journal and the service manager; what cannot be told is dropped, never an error of the flow.

Source:
    systemd, "Native Journal Protocol"; sd_notify(3).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from bootc_fast.text import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bootc_fast.machine.host import Host

IDENTIFIER = "bootc-fast"
PRIORITY_ERROR = 3
PRIORITY_NOTICE = 5
PRIORITY_INFO = 6

# A journal that does not read must not stop a shutdown; its queue empties within milliseconds where it does.
_SEND_TIMEOUT_S = 0.25
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def send_journal(
    host: Host,
    message: str | Sequence[str],
    *,
    message_id: str,
    fields: Mapping[str, object],
    priority: int = PRIORITY_INFO,
) -> None:
    """Send one message with native fields; never raises, waits 0.25 s at most.

    Under ``--root`` only DIR's own socket is used.

    Args:
        host: Whose journal.
        message: For people, one line or several; each is escaped here, while fields are data and pass as they are.
        message_id: 32 hex digits, from ``message_ids``.
        fields: Further fields, e.g. ``BOOTC_FAST_OPERATION``; None values are left out.
        priority: A syslog priority.

    Source:
        Spec commands.md, "Journal".
    """
    pairs: dict[str, object] = {
        "MESSAGE": "\n".join(map(escape, (message,) if isinstance(message, str) else message)),
        "MESSAGE_ID": message_id,
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **{name: value for name, value in fields.items() if value is not None},
    }
    # As bytes every value is framed by its length, so line ends and bytes that are not UTF-8 pass as they are.
    encoded = [(name, str(value).encode("utf-8", "surrogateescape")) for name, value in pairs.items()]
    # A full queue, no journal, no permission; UnicodeError for a lone surrogate: all the same to the flow.
    with suppress(OSError, ValueError):
        _send(host, encoded)


def _send(host: Host, pairs: list[tuple[str, bytes]]) -> None:
    path = host.journal_socket
    status = host.find_status(path, follow=False)
    if status is None or not stat.S_ISSOCK(status.st_mode):
        return
    # By descriptor: a path of more than 107 bytes does not fit a socket address, and under --root the
    # directories on the way may be symlinks.
    with host.open_directory(path.parent) as fd:
        _send_datagram(_encode(pairs), f"/proc/self/fd/{fd}/{path.name}")


def _encode(pairs: list[tuple[str, bytes]]) -> bytes:
    """Frame every value by its length (little endian, 64 bits), the form that may hold any byte."""
    return b"".join(
        name.encode("ascii") + b"\n" + len(value).to_bytes(8, "little") + value + b"\n" for name, value in pairs
    )


def _send_datagram(data: bytes, address: str) -> None:
    """Send one datagram, or the descriptor of a sealed file where it is too large for one.

    Raises:
        OSError: Nobody reads there, or the queue stays full for 0.25 s.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_SEND_TIMEOUT_S)
        try:
            sender.sendto(data, address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
        else:
            return
        fd = os.memfd_create("bootc-fast-journal", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            # Only what nobody can change any more is read.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
            sender.sendmsg([], ancillary, 0, address)
        finally:
            os.close(fd)


def notify_status(text: str) -> None:
    """Tell the service manager what is going on (``STATUS=``); does nothing without ``NOTIFY_SOCKET``."""
    _notify("STATUS=" + escape(text.replace("\n", " ")))


def extend_timeout(seconds: float) -> None:
    """Ask the service manager for `seconds` more from now on; to be sent while there is progress."""
    _notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")


def _notify(line: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError, ValueError):
        _send_datagram(line.encode("utf-8", "replace"), address)
