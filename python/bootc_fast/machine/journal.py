"""Telling the journal and the service manager; what cannot be told is dropped, never an error of the flow.

Source:
    systemd, "Native Journal Protocol"; sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from logging_journald import JournaldTransport

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
        transport = JournaldTransport(f"/proc/self/fd/{fd}/{path.name}", connected=False)
        try:
            transport.socket.settimeout(_SEND_TIMEOUT_S)
            transport.send(pairs)
        finally:
            transport.socket.close()


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
    with (
        suppress(OSError, ValueError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.settimeout(_SEND_TIMEOUT_S)
        sender.sendto(line.encode("utf-8", "replace"), address)
