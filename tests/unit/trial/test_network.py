"""network.py: a default route, names and URLs, asked of real routes, a real name server and real web servers."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import hosts
import pytest
import trio

from bootc_fast import CheckResult, judge_health
from bootc_fast.trial import network
from bootc_fast.trial.network import is_host_name, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAMESPACES = ["unshare", "--net", "--mount", "--propagation", "private"]
_AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
_DEFAULT = [
    "ip link add world type veth peer name far",
    "ip link set far up",
    "ip link set world up",
    "ip addr add 192.168.7.2/24 dev world",
]


def _policy(root: Path, text: str) -> None:
    path = root / "etc/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[health]\n{text}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    hosts.make_host(tmp_path / "h")
    return tmp_path / "h"


def _judge_in_a_world(root: Path, *options: str) -> dict[str, dict[str, object]]:
    """Judge where there is nothing but a loopback, a name server, and what is asked for."""
    argv = [*_NAMESPACES, *_AS_ROOT, sys.executable, "-m", "network_world", root, *options]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment, timeout=60)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["path"]: row for row in rows}


def _routes(*commands: str) -> list[str]:
    return [f"--route={command}" for command in (*_DEFAULT, *commands)]


@pytest.mark.parametrize(
    ("options", "is_there"),
    [
        ([], False),
        (_routes(), False),
        (_routes("ip route add default via 192.168.7.1"), True),
        (_routes("ip route add unreachable default"), False),
        # As a tunnel has it: neither half is called "default".
        (_routes("ip route add 0.0.0.0/1 dev world", "ip route add 128.0.0.0/1 dev world"), True),
        # In a table of its own, as a policy has it.
        (_routes("ip route add default dev world table 77", "ip rule add table 77"), True),
        # Documentation's addresses are thrown away, as careful routers do.
        (_routes("ip route add default dev world", "ip route add blackhole 203.0.113.0/24"), True),
        (_routes("ip -6 addr add fd00::2/64 dev world nodad", "ip -6 route add default via fd00::1"), True),
    ],
)
def test_a_way_out_is_what_the_kernel_says(root: Path, options: list[str], *, is_there: bool) -> None:
    _policy(root, "default-route = true\nnetwork-timeout = 0.5")
    check = _judge_in_a_world(root, *options)["default route"]
    assert check["result"] == ("passed" if is_there else "failed")
    assert check["reason"] == ("" if is_there else "there is none (tried again for 0.5 s)")


def test_names_are_asked_of_the_hosts_resolver(root: Path) -> None:
    _policy(root, "dns-names = ['known.example', 'unknown.example']\nnetwork-timeout = 2")
    checks = _judge_in_a_world(root)
    assert checks["DNS: known.example"]["result"] == "passed"
    assert checks["DNS: unknown.example"]["reason"] == "unknown.example has no address (tried again for 2 s)"


def test_a_name_server_that_comes_late_is_waited_for_and_one_that_is_silent_has_a_limit(root: Path) -> None:
    _policy(root, "dns-names = ['known.example']\nnetwork-timeout = 8")
    assert _judge_in_a_world(root, "--late=2")["DNS: known.example"]["result"] == "passed"
    _policy(root, "dns-names = ['known.example']\nnetwork-timeout = 2")
    started = time.monotonic()
    check = _judge_in_a_world(root, "--silent")["DNS: known.example"]
    assert check["result"] in {"failed", "timed-out"}
    assert time.monotonic() - started < 9


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        status = int(self.path.rsplit("/", 1)[-1].partition("?")[0])
        self.send_response(status)
        self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _serving(context: ssl.SSLContext | None = None) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.seen = []  # type: ignore[attr-defined]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def _speaking(speak: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that says to each client what the test wants it to."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                clients.append(client)
                speak(client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for client in clients:
            client.close()


async def _ask(root: Path, *urls: str, timeout: float = 0.5) -> list[tuple[CheckResult, str]]:  # noqa: ASYNC109
    _policy(root, f"urls = {list(urls)!r}\nnetwork-timeout = {timeout}")
    return [(one.result, one.reason) for one in (await judge_health(root)).checks]


@pytest.mark.parametrize(
    ("status", "reason"), [(200, ""), (204, ""), (301, ""), (404, "it answered with status 404"), (503, "503")]
)
async def test_a_status_below_400_is_an_answer(root: Path, status: int, reason: str) -> None:
    with _serving() as server:
        ((result, said),) = await _ask(root, f"http://127.0.0.1:{server.server_port}/health/{status}?deep=1")
        seen = server.seen[0]  # type: ignore[attr-defined]
    assert (result is CheckResult.PASSED) is (not reason)
    assert reason in said
    assert seen == (f"/health/{status}?deep=1", f"127.0.0.1:{server.server_port}")


async def test_a_server_that_comes_late_is_waited_for(root: Path) -> None:
    answers = iter([b"HTTP/1.1 503 Not yet\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])

    def speak(client: socket.socket) -> None:
        client.sendall(next(answers))

    with _speaking(speak) as port:
        assert await _ask(root, f"http://127.0.0.1:{port}/", timeout=10) == [(CheckResult.PASSED, "")]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers does not speak HTTP"),
        (b"\n", "what answers does not speak HTTP"),
        (b"x" * 100_000, "what answers does not speak HTTP"),
        (None, "the connection was closed without an answer"),
    ],
)
async def test_what_is_no_web_server_is_told(root: Path, says: bytes | None, reason: str) -> None:
    def speak(client: socket.socket) -> None:
        client.recv(4096)
        with contextlib.suppress(OSError):
            client.sendall(says or b"")
        client.shutdown(socket.SHUT_RDWR)

    with _speaking(speak) as port:
        ((result, said),) = await _ask(root, f"http://127.0.0.1:{port}/")
    assert (result, said) == (CheckResult.FAILED, f"{reason} (tried again for 0.5 s)")


async def test_nobody_there_is_told_in_the_kernels_words(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ((result, said),) = await _ask(root, f"http://127.0.0.1:{port}/")
    assert (result, said) == (CheckResult.FAILED, "127.0.0.1: Connection refused (tried again for 0.5 s)")


async def test_a_server_that_says_nothing_holds_up_neither_the_others_nor_the_verdict(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "ATTEMPT_TIMEOUT_S", 0.3)
    started = time.monotonic()
    with _speaking(lambda _: None) as port, _serving() as server:
        urls = [f"{scheme}://127.0.0.1:{port}/" for scheme in ("http", "https")]
        found = await _ask(root, *urls, f"http://127.0.0.1:{server.server_port}/200", timeout=1)
    assert [result for result, _ in found] == [CheckResult.TIMED_OUT, CheckResult.TIMED_OUT, CheckResult.PASSED]
    assert found[0][1] == "no answer in 0.3 s (tried again for 1 s)"
    assert time.monotonic() - started < 8


async def test_the_whole_limit_holds_for_the_network_too(root: Path) -> None:
    with _speaking(lambda _: None) as port:
        _policy(root, f"urls = ['http://127.0.0.1:{port}/']\ntimeout = 0.5")
        (check,) = (await judge_health(root)).checks
    assert (check.result, check.reason) == (CheckResult.TIMED_OUT, "all checks together took longer than 0.5 s")


async def test_a_cancellation_comes_through_at_once(root: Path) -> None:
    with _speaking(lambda _: None) as port:
        _policy(root, f"urls = ['https://127.0.0.1:{port}/']\ndns-names = ['unknown.invalid']")
        started = time.monotonic()
        with trio.move_on_after(0.5) as scope:
            await judge_health(root)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 5


def test_the_same_on_asyncio(root: Path) -> None:
    with _serving() as server:
        port = server.server_port
        assert anyio.run(_ask, root, f"http://127.0.0.1:{port}/200", backend="asyncio") == [(CheckResult.PASSED, "")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run(argv, check=True, capture_output=True)
    with path.open("ab") as file:
        file.write(Path(f"{path}.crt").read_bytes())
    return path


@pytest.mark.parametrize(("is_trusted", "host"), [(True, "127.0.0.1"), (False, "127.0.0.1"), (True, "localhost")])
async def test_tls_is_checked_against_the_hosts_authorities(
    root: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str, *, is_trusted: bool
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with _serving(context) as server:
        ((result, said),) = await _ask(root, f"https://{host}:{server.server_port}/200")
    if is_trusted and host == "127.0.0.1":
        assert (result, said) == (CheckResult.PASSED, "")
    else:
        assert result is CheckResult.FAILED
        assert said.startswith("TLS: Hostname mismatch" if is_trusted else "TLS: self-signed certificate"), said


async def test_a_server_without_tls_is_told(root: Path) -> None:
    with _serving() as server:
        ((result, said),) = await _ask(root, f"https://127.0.0.1:{server.server_port}/200")
    assert result is CheckResult.FAILED
    assert said.startswith("TLS: ")


@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("http://a", "a", 80, "/", "a"),
        ("https://a.example/x/y?z=1#part", "a.example", 443, "/x/y?z=1", "a.example"),
        ("https://a:8443?q", "a", 8443, "/?q", "a:8443"),
        ("http://[::1]:8080/", "::1", 8080, "/", "[::1]:8080"),
        ("https://a:443/", "a", 443, "/", "a"),
    ],
)
def test_a_url_is_taken_apart(text: str, host: str, port: int, target: str, authority: str) -> None:
    url = parse_url(text)
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    "text",
    ["", "a", "ftp://a/", "file:///etc/passwd", "http://", "http:///x", "http://a b/", "http://a/\r\nX: y", "http://ä/",
     "http://u:p@a/", "http://a:99999/", "http://a:x/", "http://[::1/"],
)  # fmt: skip
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|address|characters|Port|port|IPv6"):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("a", True), ("a.example.", True), ("_srv.a", True), ("-a", False), ("", False), ("a..b", False),
     ("1.2.3.4", False), ("::1", False), ("a b", False), ("a" * 64, False),
     (".".join(["a" * 60] * 5), False), ("--help", False)],
)  # fmt: skip
def test_a_name_is_no_address_and_no_option(text: str, *, is_one: bool) -> None:
    assert is_host_name(text) is is_one


def test_tls_costs_nothing_where_nobody_asks_for_it() -> None:
    code = "import sys, bootc_fast.flows.health; print(*({'ssl', 'anyio.streams.tls'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == ""
