"""The only place that loads libostree: found or explained, its threads, its errors, its lock.

libostree is reached by GObject introspection, which not every host has: nothing here is imported before a host turned
out to be an ostree one.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.from_thread
import anyio.to_thread

from bootc_fast.errors import BootcFastError, FileSystemError, LockedError
from bootc_fast.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bootc_fast.machine.host import Host

T = TypeVar("T")

LOCK_TIMEOUT_S = 30.0
_POLL_S = 0.02
_LOCK_RETRY_S = 0.1
_REAP_POLLS = 50
_MAX_COMMAND_BYTES = 256


def load_libostree() -> Any:  # noqa: ANN401 - introspected modules have no types
    """Load libostree's introspection data.

    Returns:
        A tuple of the modules ``OSTree``, ``Gio`` and ``GLib``.

    Raises:
        BootcFastError: PyGObject or the introspection data is missing; the hint names the packages.
    """
    try:
        import gi

        gi.require_version("OSTree", "1.0")
        from gi.repository import Gio, GLib, OSTree
    except (ImportError, ValueError) as error:
        raise BootcFastError(
            f"loading libostree: {error}",
            hint="install python3-gi and gir1.2-ostree-1.0 (Debian), python3-gobject-base and ostree-libs (Fedora), "
            "or bootc-fast[ostree] where this runs in a virtual environment",
        ) from error
    return OSTree, Gio, GLib


@contextmanager
def ostree_errors(what: str) -> Generator[None]:
    """Turn libostree's errors into ours, with its text.

    Raises:
        FileSystemError: libostree refused; the message ends with what it said.
    """
    _, _, glib = load_libostree()
    try:
        yield
    except glib.Error as error:
        hint = "run it as root" if "Permission denied" in error.message and os.geteuid() else None
        raise FileSystemError(f"{what}: libostree: {error.message}", hint=hint) from error


async def run_ostree(function: Callable[[Any], T]) -> T:
    """Call a function in a thread of its own, with a ``Gio.Cancellable`` that our cancellation triggers.

    The thread ends with the call: libostree gives a thread that writes on a live host a mount namespace of its own,
    which no other task may ever run in. Cancellation: libostree stops at its next check; a function that returns
    nevertheless (what it was to change is changed) has its result returned.

    Args:
        function: Gets the cancellable.

    Returns:
        What it returns.
    """
    return await anyio.to_thread.run_sync(_watch_thread, function)


def _watch_thread(function: Callable[[Any], T]) -> T:
    """Run `function` in a thread, wait for it, and pass a cancellation on."""
    _, gio, _ = load_libostree()
    cancellable = gio.Cancellable.new()
    returned: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            returned.append(function(cancellable))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            raised.append(error)
        finally:
            _reap_children()

    thread = threading.Thread(target=call, name="bootc-fast-libostree")
    thread.start()
    cancelled: BaseException | None = None
    while thread.is_alive():
        thread.join(_POLL_S)
        try:
            anyio.from_thread.check_cancelled()
        except BaseException as error:  # noqa: BLE001 - trio and asyncio each have their own class
            cancelled = error
            break
    if cancelled is not None:
        cancellable.cancel()
        thread.join()
    if returned:
        return returned[0]
    if cancelled is not None:
        raise cancelled
    try:
        raise raised[0]
    finally:
        # The error's traceback holds this frame, and this frame the error.
        raised.clear()


def _reap_children() -> None:
    """Wait for what libostree forked in this thread and forgot: the guard of its file system freeze, which is done."""
    try:
        with open("/proc/thread-self/children", "rb") as file:
            children = [int(pid) for pid in file.read().split()]
    except OSError:
        # Zombies, until this process ends, where the kernel does not list them.
        return
    waiting = threading.Event()
    for _ in range(_REAP_POLLS):
        for pid in children.copy():
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            children.remove(pid)
        if not children:
            return
        waiting.wait(_POLL_S)


@contextmanager
def open_sysroot(host: Host, cancellable: Any, *, writable: bool) -> Generator[Any]:  # noqa: ANN401 - untyped library
    """Open and load the host's ostree sysroot; blocks.

    Yields an ``OSTree.Sysroot``. With `writable` on a live host the calling thread gets a mount namespace of its own,
    in which libostree may remount /sysroot and /boot.

    Raises:
        FileSystemError: libostree cannot read it.
    """
    ostree, gio, _ = load_libostree()
    with host.open_directory(host.sysroot) as fd, ostree_errors(f"opening the ostree sysroot {host.sysroot}"):
        # By descriptor: under --root no symlink may lead out of DIR.
        path = "/" if host.is_live else f"/proc/self/fd/{fd}"
        sysroot = ostree.Sysroot.new(gio.File.new_for_path(path))
        if writable and host.is_live:
            sysroot.initialize_with_mount_namespace(cancellable)
        sysroot.load(cancellable)
        try:
            yield sysroot
        finally:
            sysroot.unload()


@contextmanager
def lock_sysroot(host: Host, sysroot: Any, cancellable: Any) -> Generator[None]:  # noqa: ANN401 - untyped library
    """Hold libostree's own lock of the sysroot, which `ostree admin`, rpm-ostree and bootc take as well; blocks.

    Raises:
        LockedError: Another process held it for 30 s; the message names it.
        FileSystemError: The lock cannot be taken.
    """
    waited_s = 0.0
    waiting = threading.Event()
    with ostree_errors("locking the ostree sysroot"):
        while not sysroot.try_lock()[1]:
            if waited_s >= LOCK_TIMEOUT_S:
                raise LockedError(
                    f"waiting {LOCK_TIMEOUT_S:g} s for the ostree sysroot's lock: {_find_holder(host)} holds it",
                    hint="wait for it to end, then run this again",
                )
            cancellable.set_error_if_cancelled()
            waiting.wait(_LOCK_RETRY_S)
            waited_s += _LOCK_RETRY_S
        try:
            # Whoever held it may have changed the deployments.
            sysroot.load_if_changed(cancellable)
            yield
        finally:
            sysroot.unlock()


def _find_holder(host: Host) -> str:
    """Name a process that has the lock file open; a lock of an open file description has no owner in /proc/locks."""
    status = host.find_status(host.sysroot / "ostree/lock")
    for name in os.listdir("/proc"):
        if status is None or not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            for number in os.listdir(f"/proc/{name}/fd"):
                with suppress(OSError):
                    found = os.stat(f"/proc/{name}/fd/{number}")
                    if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
                        return f"process {name} ({_read_command(name)})"
    return "another process"


def _read_command(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        line = file.read(_MAX_COMMAND_BYTES)
    return escape_bytes(line.replace(b"\0", b" ").strip())
