"""Runs in namespaces of its own, network and mounts: a name server, routes as asked for, then a host's health checks.

``python -m network_world ROOT [--route COMMAND]… [--silent] [--late SECONDS]``; prints each check as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import struct
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path

import trio

from bootc_fast import judge_health

KNOWN = "known.example"
_ADDRESS = socket.inet_aton("127.0.0.9")
_NAME_ERROR, _TYPE_A = 3, 1


def answer(query: bytes) -> bytes:
    """An A record for the known name, nothing for its other types, and that any other name does not exist."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    (kind,) = struct.unpack_from(">H", query, at + 1)
    is_known = ".".join(labels) == KNOWN
    records = b""
    if is_known and kind == _TYPE_A:
        records = b"\xc0\x0c" + struct.pack(">HHIH", _TYPE_A, 1, 60, 4) + _ADDRESS
    flags = 0x8180 | (0 if is_known else _NAME_ERROR)
    return query[:2] + struct.pack(">HHHHH", flags, 1, int(bool(records)), 0, 0) + question + records


def serve(*, is_silent: bool, late_s: float) -> None:
    """Answer at 127.0.0.1, port 53; at first only after a while, or never."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    begin = time.monotonic() + late_s
    while True:
        query, client = server.recvfrom(512)
        if not is_silent and time.monotonic() > begin:
            server.sendto(answer(query), client)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--route", action="append", default=[])
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--late", type=float, default=0)
    arguments = parser.parse_args()
    for command in ("ip link set lo up", *arguments.route):
        subprocess.run(shlex.split(command), check=True)
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        own = arguments.root / name
        own.write_text(text)
        subprocess.run(["mount", "--bind", own, Path("/etc", name).resolve()], check=True)
    options = {"is_silent": arguments.silent, "late_s": arguments.late}
    threading.Thread(target=serve, kwargs=options, daemon=True).start()
    outcome = trio.run(judge_health, arguments.root)
    for check in outcome.checks:
        print(json.dumps(asdict(check)))  # noqa: T201 that is what it is for


if __name__ == "__main__":
    main()
