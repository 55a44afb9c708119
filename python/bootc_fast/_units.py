"""Whether the service manager will run a finalize when the machine goes down."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from bootc_fast.host import Host

OWN_UNIT = "bootc-fast-finalize-staged.service"
BOOTC_UNIT = "bootc-finalize-staged.service"
# Asked for a line of text: a manager that is busy with a shutdown does not answer.
_ASK_TIMEOUT_S = 5.0


async def find_finalize_unit(host: Host) -> tuple[bool | None, str]:
    """Find the unit that will finalize at shutdown.

    A unit finalizes when it is stopped, so it has to be active before.

    Returns:
        Whether one will, None where that cannot be told; and why, in words for people.
    """
    if not host.is_live:
        return None, "units are not looked at with --root"
    for unit in (OWN_UNIT, BOOTC_UNIT):
        try:
            with anyio.fail_after(_ASK_TIMEOUT_S):
                argv = ["systemctl", "show", "--property=LoadState,ActiveState", unit]
                done = await anyio.run_process(argv, check=False, stderr=subprocess.DEVNULL)
        except (OSError, TimeoutError):
            return None, "the service manager cannot be asked"
        if b"ActiveState=active" in done.stdout.splitlines():
            return True, f"{unit} runs it at shutdown"
    return False, f"neither {OWN_UNIT} nor {BOOTC_UNIT} is active; `systemctl enable --now {OWN_UNIT}` starts it"
