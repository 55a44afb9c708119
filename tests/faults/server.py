"""A process that runs the program many times: it has everything imported, forks, and follows the child.

Speaks JSON lines. It stays single-threaded, since a fork copies one thread only: what starts threads (the program,
the lab) runs in its children. Start it with the tests' directory on the module path.

A request that has ``argv`` runs the program; one that has ``call`` runs a function of ``faults.scene`` instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import pkgutil
import sys
import traceback
from typing import Any

import trio  # noqa: F401

import bootc_fast
from bootc_fast.cli import main


class Order(ctypes.Structure):
    """tracer.c's ``struct order``."""

    _fields_ = (
        ("below", ctypes.c_char_p),
        ("kinds", ctypes.c_int),
        ("at", ctypes.c_long),
        ("error", ctypes.c_int),
        ("sticky", ctypes.c_int),
        ("log", ctypes.c_int),
        ("count", ctypes.c_long),
        ("exit_code", ctypes.c_int),
        ("name", ctypes.c_char * 32),
        ("path", ctypes.c_char * 1024),
    )


def import_all() -> None:
    """Import what the commands import when they first need it."""
    for module in pkgutil.walk_packages(bootc_fast.__path__, "bootc_fast."):
        if not module.name.endswith("__main__"):
            # The ostree half needs GObject introspection, which need not be there.
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def _work(request: dict[str, Any], output: dict[str, int]) -> int:
    """In the child: what is followed."""
    for name, descriptor in output.items():
        os.dup2(descriptor, {"out": 1, "err": 2}[name])
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), errors="backslashreplace", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace", write_through=True)
    if "call" in request:
        function = getattr(importlib.import_module("faults.scene"), request["call"])
        sys.stdout.write("\n" + json.dumps(function(*request["arguments"])))
        return 0
    return main(request["argv"])


def _child(tracer: ctypes.CDLL, request: dict[str, Any], output: dict[str, int]) -> None:
    code = 1
    try:
        if request.get("exec"):
            for name, descriptor in output.items():
                os.dup2(descriptor, {"out": 1, "err": 2}[name])
        if tracer.tracer_follow_me():
            raise OSError("no seccomp")
        if request.get("exec"):
            os.execv(sys.executable, [sys.executable, "-B", "-m", "bootc_fast", *request["argv"]])  # noqa: S606
        code = _work(request, output)
    except BaseException:  # noqa: BLE001 a child that came back would be a second server
        os.write(output["err"], traceback.format_exc().encode())
    os._exit(code)


def _serve(tracer: ctypes.CDLL, request: dict[str, Any]) -> dict[str, Any]:
    output = {name: os.memfd_create(name) for name in ("out", "err")}
    log = os.memfd_create("log") if request.get("log") else -1
    pid = os.fork()
    if pid == 0:
        _child(tracer, request, output)
    order = Order(
        below=os.fsencode(request["below"]),
        kinds=request.get("kinds", 3),
        at=request.get("at", 0),
        error=request.get("error", 0),
        sticky=request.get("sticky", False),
        log=log,
    )
    if tracer.tracer_follow(pid, ctypes.byref(order)):
        raise OSError("ptrace refused")
    text = {name: _take(descriptor) for name, descriptor in {**output, "log": log}.items() if descriptor >= 0}
    facts = {"count": order.count, "exit_code": order.exit_code}
    return {**facts, "call": order.name.decode(), "path": order.path.decode(errors="replace"), **text}


def _take(descriptor: int) -> str:
    text = os.pread(descriptor, 1 << 24, 0).decode(errors="replace")
    os.close(descriptor)
    return text


def serve(library: str) -> None:
    """Answer until there are no more requests."""
    import_all()
    tracer = ctypes.CDLL(library, use_errno=True)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_serve(tracer, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
