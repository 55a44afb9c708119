"""Whether the service manager will run a finalize when the machine goes down."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import anyio

from bootc_fast.records import dataclass

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

OWN_UNIT = "bootc-fast-finalize-staged.service"
BOOTC_UNIT = "bootc-finalize-staged.service"
# Asked for a line of text: a manager that is busy with a shutdown does not answer.
_ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class UnitState:
    """What the service manager says of a unit.

    Attributes:
        is_installed: It has a file that could be read.
        is_active: It runs, or has been started and remains.
    """

    is_installed: bool
    is_active: bool


async def read_unit_state(unit: str) -> UnitState | None:
    """Ask the service manager of the running machine; None where it does not answer.

    Cancellation: at any moment.
    """
    try:
        with anyio.fail_after(_ASK_TIMEOUT_S):
            argv = ["systemctl", "show", "--property=LoadState,ActiveState", unit]
            done = await anyio.run_process(argv, check=False, stderr=subprocess.DEVNULL)
    except (OSError, TimeoutError):
        return None
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        return None
    return UnitState(is_installed=b"LoadState=loaded" in lines, is_active=b"ActiveState=active" in lines)


async def list_failed_units(host: Host) -> tuple[str, ...] | None:
    """List the units that have failed; None where the service manager does not answer. A directory has none.

    Cancellation: at any moment.
    """
    if not host.is_live:
        return ()
    try:
        with anyio.fail_after(_ASK_TIMEOUT_S):
            argv = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full", "--no-pager"]
            done = await anyio.run_process(argv, check=False, stderr=subprocess.DEVNULL)
    except (OSError, TimeoutError):
        return None
    if done.returncode != 0:
        return None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return tuple(words[0] for line in lines if (words := line.split()))


async def find_finalize_unit(host: Host) -> tuple[bool | None, str]:
    """Find the unit that will finalize at shutdown.

    A unit finalizes when it is stopped, so it has to be active before.

    Returns:
        Whether one will, None where that cannot be told; and why, in words for people.
    """
    if not host.is_live:
        return None, "units are not looked at under --root"
    for unit in (OWN_UNIT, BOOTC_UNIT):
        state = await read_unit_state(unit)
        if state is None:
            return None, "the service manager cannot be asked"
        if state.is_active:
            return True, f"{unit} runs it at shutdown"
    return False, f"neither {OWN_UNIT} nor {BOOTC_UNIT} is active; `systemctl start {OWN_UNIT}` starts it"
