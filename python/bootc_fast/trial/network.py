"""Health checks of the network, each tried again until it passes or its time is over: a network comes up late.

Nothing here blocks, and no thread is left behind: names are resolved by a child process, which is killed when nobody
waits for it any more, and all else are sockets of the event loop.

Source:
    Spec trial.md, "Health": "default route and DNS", "URL answers".
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import anyio

from bootc_fast.records import dataclass
from bootc_fast.text import escape, reason_of
from bootc_fast.trial.checks import Check, CheckKind, CheckResult

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from bootc_fast.trial.policy import HealthPolicy

RETRY_S = 1.0
"""How long is waited after an attempt that failed."""
ATTEMPT_TIMEOUT_S = 15.0
"""For one attempt, so that its reason can be told and the next one can do better."""
CONNECT_TIMEOUT_S = 4.0
"""For one address of several."""
MAX_ADDRESSES = 8
MAX_STATUS_LINE_BYTES = 4096
DEFAULT_ROUTE = "default route"
_FIRST_ERROR = 400
_PORTS = {"http": 80, "https": 443}
# Of the root servers A and M, and of documentation: some networks throw the latter away, and nothing is sent to any.
_OUTSIDE = (
    (socket.AF_INET, ("198.41.0.4", "202.12.27.33", "203.0.113.1")),
    (socket.AF_INET6, ("2001:503:ba3e::2:30", "2001:dc3::35", "2001:db8::1")),
)
_DISCARD_PORT = 9
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_GETENT_UNKNOWN = 2
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b")


@dataclass(frozen=True, slots=True)
class Url:
    """What has to answer.

    Attributes:
        text: As it was written.
        is_tls: ``https``.
        host: Name or address, without brackets.
        port: Where.
        target: Path and query, as a request has them.
    """

    text: str
    is_tls: bool
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the header ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"


def parse_url(text: str) -> Url:
    """Parse an address that has to answer.

    Raises:
        ValueError: It is none, or has a user's name in it.
    """
    from urllib.parse import urlsplit

    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"'{escape(text)}' has characters that a URL cannot have")
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"'{text}' is no http:// or https:// address")
    if "@" in parts.netloc:
        raise ValueError("a user's name and password have no place in a URL here: a script can have them")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or _PORTS[parts.scheme]
    return Url(text, parts.scheme == "https", parts.hostname, port, target)


_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def is_host_name(text: str) -> bool:
    """Whether it can be asked for: a name, no address."""
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None and not _is_address(text)  # noqa: PLR2004 RFC 1035


def list_network_checks(policy: HealthPolicy) -> list[str]:
    """The names of the checks that are switched on."""
    route = [DEFAULT_ROUTE] if policy.default_route else []
    return [*route, *(f"DNS: {name}" for name in policy.dns_names), *(f"URL: {url}" for url in policy.urls)]


async def run_network_checks(policy: HealthPolicy) -> list[Check]:
    """Run what is switched on, side by side.

    Cancellation: at any moment; nothing is left behind.

    Returns:
        In the order of `list_network_checks`; all of them are required ones.
    """
    attempts: list[Callable[[], Awaitable[str | None]]] = [_find_route] if policy.default_route else []
    attempts += [lambda name=name: _resolve_name(name) for name in policy.dns_names]  # type: ignore[misc]
    attempts += [lambda url=url: ask_url(parse_url(url)) for url in policy.urls]  # type: ignore[misc]
    names = list_network_checks(policy)
    ended: dict[str, Check] = {}

    async def run_one(name: str, attempt: Callable[[], Awaitable[str | None]]) -> None:
        ended[name] = await _try_until_it_passes(name, attempt, timeout_s=policy.network_timeout_s)

    async with anyio.create_task_group() as tasks:
        for name, attempt in zip(names, attempts, strict=True):
            tasks.start_soon(run_one, name, attempt)
    return [ended[name] for name in names]


async def _try_until_it_passes(name: str, attempt: Callable[[], Awaitable[str | None]], *, timeout_s: float) -> Check:
    started, result = anyio.current_time(), CheckResult.TIMED_OUT
    reason: str | None = f"no answer in {min(timeout_s, ATTEMPT_TIMEOUT_S):g} s"
    with anyio.move_on_after(timeout_s):
        while True:
            with anyio.move_on_after(ATTEMPT_TIMEOUT_S) as limit:
                reason = await attempt()
                result = CheckResult.FAILED
            if limit.cancelled_caught:
                reason, result = f"no answer in {ATTEMPT_TIMEOUT_S:g} s", CheckResult.TIMED_OUT
            elif reason is None:
                return Check(name, CheckKind.REQUIRED, CheckResult.PASSED, seconds=anyio.current_time() - started)
            await anyio.sleep(RETRY_S)
    said = f"{reason} (tried again for {timeout_s:g} s)"
    return Check(name, CheckKind.REQUIRED, result, said, anyio.current_time() - started)


async def _find_route() -> str | None:
    return find_default_route()


def find_default_route() -> str | None:
    """Ask the kernel for a way to the internet, whatever tables and rules it is in; sends nothing, never blocks.

    Returns:
        None where there is one, in IPv4 or IPv6; else why not, in words.
    """
    said: list[str] = []
    for family, addresses in _OUTSIDE:
        for address in addresses:
            try:
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect((address, _DISCARD_PORT))
            except OSError as error:
                if error.errno not in _NO_ROUTE:
                    said.append(reason_of(error))
            else:
                return None
    return "; ".join(["there is none", *dict.fromkeys(said)])


async def _resolve_name(name: str) -> str | None:
    return (await resolve_host(name))[1]


async def resolve_host(host: str) -> tuple[tuple[str, ...], str | None]:
    """Ask the host's resolver, as its programs do: ``getent``, which comes with the C library.

    Returns:
        Addresses, the preferred ones first; and why there are none, in words.
    """
    if _is_address(host):
        return (host,), None
    try:
        done = await anyio.run_process(["getent", "ahosts", host], check=False, stderr=subprocess.DEVNULL)
    except OSError as error:
        return (), f"getent: {reason_of(error)}"
    rows = [line.split() for line in done.stdout.decode("ascii", "replace").splitlines()]
    found = tuple(dict.fromkeys(row[0] for row in rows if len(row) > 1 and row[1] == "STREAM"))
    if found:
        return found[:MAX_ADDRESSES], None
    if done.returncode == _GETENT_UNKNOWN:
        return (), f"{host} has no address"
    return (), f"asking for {host}: getent exited with {done.returncode}"


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


async def ask_url(url: Url) -> str | None:
    """Ask once; what is said after the status line is not read.

    Cancellation: at any moment; the connection is closed.

    Returns:
        None where it answered with a status below 400; else why not, in words.
    """
    addresses, why_none = await resolve_host(url.host)
    said = [why_none] if why_none else []
    for address in addresses:
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                stream = await anyio.connect_tcp(address, url.port)
        except TimeoutError:
            said.append(f"{address}: no connection in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            said.append(f"{address}: {_reason_of_kernel(error)}")
        else:
            return await _ask_over(stream, url)
    return "; ".join(dict.fromkeys(said))


def _reason_of_kernel(error: OSError) -> str:
    """The kernel's words; the event loop wraps an error in one that has the address again."""
    inner = error.__cause__
    if isinstance(inner, OSError):
        return _reason_of_kernel(inner)
    return os.strerror(error.errno) if error.errno else reason_of(error)


async def _ask_over(plain: ByteStream, url: Url) -> str | None:
    async with plain:
        try:
            stream = await _wrap(plain, url) if url.is_tls else plain
            head = [f"GET {url.target} HTTP/1.1", f"Host: {url.authority}", "User-Agent: bootc-fast", "Accept: */*"]
            await stream.send("\r\n".join([*head, "Connection: close", "", ""]).encode("ascii"))
            line = b""
            while b"\n" not in line and len(line) < MAX_STATUS_LINE_BYTES:
                line += await stream.receive(MAX_STATUS_LINE_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return "the connection was closed without an answer"
        except (OSError, ValueError) as error:
            # Errors of TLS are of these kinds.
            return _describe_tls(error)
    status = _STATUS.match(line)
    if status is None:
        return "what answers does not speak HTTP"
    return None if int(status[1]) < _FIRST_ERROR else f"it answered with status {int(status[1])}"


def _describe_tls(error: OSError | ValueError) -> str:
    said = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    return f"TLS: {said}" if said else str(error)


async def _wrap(plain: ByteStream, url: Url) -> ByteStream:
    # Both take a while to load, and most hosts never need them.
    import ssl

    from anyio.streams.tls import TLSStream

    context: ssl.SSLContext = ssl.create_default_context()
    return await TLSStream.wrap(plain, hostname=url.host, ssl_context=context, standard_compatible=False)
