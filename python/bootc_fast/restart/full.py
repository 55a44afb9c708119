"""Restarting through the firmware, whatever was prepared: the boot loader has to choose, and to count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootc_fast.machine.host import open_host
from bootc_fast.machine.native import run_blocking
from bootc_fast.restart.ways import RestartWay, clear_next_root, require_live, start_restart

if TYPE_CHECKING:
    from pathlib import Path


async def restart_through_firmware(message: str, root: Path | str = "/") -> None:
    """Restart the machine through firmware and boot loader; returns once the service manager has taken the job.

    A next root or a kernel that waits for a soft reboot or a kexec is cleared first: a plain reboot would enter it.
    Cancellation: waits for the end, 30 s at most; the restart itself may end us with SIGTERM.

    Args:
        message: Why, for the journal and for whoever is logged in.
        root: ``/``.

    Raises:
        SoftRebootError: `root` is a directory: nothing restarts for it.
        MountError: What was prepared cannot be cleared, and a restart would enter it.
        CommandError: systemctl failed.
        FileSystemError: There is no systemctl.
    """
    host = await run_blocking(open_host, root)
    require_live(host)
    await run_blocking(clear_next_root, host)
    await start_restart(RestartWay.FULL, message=message)
