"""The root of a soft reboot, prepared with this kernel in a mount namespace of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flowkit
import pytest
from nextroot_kit import KERNEL, add_tools, make_rootfs, make_updated, mounts_below, run_in_namespace, stage
from unit.machine.test_journal import _fields, _listen

from bootc_fast import message_ids

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


def test_a_rollback_prepares_the_next_root_and_reset_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    calls = add_tools(case.root)
    journal = case.root / "run/systemd/journal/socket"
    journal.parent.mkdir(parents=True)
    with _listen(journal) as receiver:
        found = run_in_namespace(
            case.root,
            """
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["writes"] = {path: write(path) for path in ("new", "etc/new", "var/new", "sysroot/new")}
RECORD["reset"] = await restart.reset_restart(str(ROOT))
look("cleared")
RECORD["again"] = await restart.reset_restart(str(ROOT))
""",
        )
        told = [_fields(receiver.recv(1 << 16)) for _ in range(3)]
    assert [one["MESSAGE_ID"].decode() for one in told] == [
        message_ids.ROLLBACK, message_ids.BOOT_ORDER_CHANGED, message_ids.RESTART_PREPARED,
    ]  # fmt: skip
    assert (told[2]["BOOTC_FAST_RESTART"], told[2]["BOOTC_FAST_NEXT_BOOT"]) == (b"soft-reboot", case.staged.encode())
    assert found["restart"] == "soft-reboot"
    prepared = found["prepared"]
    assert isinstance(prepared, dict)
    mounts = mounts_below(case.root, prepared)
    assert set(mounts) == {"", "/etc", "/var", "/sysroot"}
    root = mounts[""]
    assert (root.fstype, root.source) == ("overlay", f"composefs:{case.staged}".encode())
    assert {b"metacopy=on", b"redirect_dir=on"} <= set(root.super_options)
    assert "ro" in root.options
    assert not {"nosuid", "nodev"} & set(root.options)
    assert mounts["/etc"].root.endswith(f"/state/deploy/{case.staged}/etc".encode())
    assert mounts["/var"].root.endswith(b"/state/os/default/var")
    assert mounts["/sysroot"].root.endswith(b"/h/sysroot")
    assert "ro" in mounts["/sysroot"].options
    assert prepared["motd"] == "first"
    assert "ID=lab" in prepared["release"]
    assert prepared["top"] == ["boot", "etc", "sysroot", "usr", "var"]
    assert prepared["large"] == "0123456789abcdef" * 4096
    assert "composefs" in prepared["state"]
    assert found["writes"] == {"new": os.strerror(30), "etc/new": None, "var/new": None, "sysroot/new": os.strerror(30)}
    assert (found["reset"], found["again"]) == (True, False)
    cleared = found["cleared"]
    assert isinstance(cleared, dict)
    assert mounts_below(case.root, cleared) == {}
    assert cleared["top"] is None
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("[etc]\nmount = 'none'\n[var]\nmount = 'none'\n", {"": "overlay", "/sysroot": None}),
        (
            "[etc]\nmount = 'overlay'\n[var]\ntransient = true\n",
            {"": "overlay", "/sysroot": None, "/etc": "overlay", "/var": "overlay"},
        ),
        (
            "[root]\ntransient = true\n",
            {"": "overlay", "/sysroot": None, "/etc": None, "/var": None},
        ),
    ],
)
def test_the_next_root_is_laid_out_as_its_image_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, expected: dict[str, str | None]
) -> None:
    case = make_updated(tmp_path, capsys, config=config)
    add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["writes"] = {path: write(path) for path in ("new", "etc/motd", "var/new")}
await restart.reset_restart(str(ROOT))
look("cleared")
""",
    )
    assert found["restart"] == "soft-reboot"
    prepared, cleared = found["prepared"], found["cleared"]
    assert isinstance(prepared, dict)
    assert isinstance(cleared, dict)
    mounts = mounts_below(case.root, prepared)
    assert set(mounts) == set(expected)
    assert {point: mounts[point].fstype for point, kind in expected.items() if kind} == {
        point: kind for point, kind in expected.items() if kind
    }
    is_transient = "[root]" in config
    source = f"transient:composefs={case.staged}" if is_transient else f"composefs:{case.staged}"
    assert mounts[""].source == source.encode()
    read_only = os.strerror(30)
    has_none = "none" in config
    assert found["writes"] == {
        "new": None if is_transient else read_only,
        "etc/motd": read_only if has_none else None,
        "var/new": read_only if has_none else None,
    }
    # What was written to an overlay has not reached the state's own file.
    is_bound = "etc" not in config
    assert (case.host.state_dir(case.staged) / "etc/motd").read_text() == ("written" if is_bound else "first")
    assert mounts_below(case.root, cleared) == {}


@pytest.mark.parametrize(
    ("option", "code", "told"),
    # Not only the check of the target that can be switched off: the kernel itself would refuse the mount.
    [("", 11, "fs-verity is required on this host"), ("verify=False", 9, "has no fs-verity")],
)
def test_an_image_without_the_verity_that_it_must_have_is_refused_and_nothing_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, code: int, told: str
) -> None:
    case = make_updated(tmp_path, capsys, missing_verity=False)
    add_tools(case.root)
    found = run_in_namespace(
        case.root,
        f"""
options = rollback_module.RollbackOptions(soft_reboot=SoftRebootMode.REQUIRED, {option})
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), options))
look("after")
""",
    )
    assert str(found["restart"]).startswith(f"{code}: ")
    assert told in str(found["restart"])
    assert isinstance(found["after"], dict)
    assert mounts_below(case.root, found["after"]) == {}
    assert flowkit.next_boot(case.host) == case.booted


@pytest.mark.parametrize(
    ("mode", "kernel", "expected"),
    [
        ("None", KERNEL, "reboot --message=Rolling back to "),
        ("SoftRebootMode.AUTO", KERNEL, "soft-reboot"),
        ("SoftRebootMode.REQUIRED", KERNEL, "soft-reboot"),
        # Neither way: another kernel, and this machine's kernel has no kexec.
        ("SoftRebootMode.AUTO", b"another kernel\n", "reboot --message=Rolling back to "),
    ],
)
def test_apply_asks_systemctl_for_the_way_that_was_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, kernel: bytes, expected: str
) -> None:
    case = make_updated(tmp_path, capsys, kernel=kernel)
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        f"""
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True, soft_reboot={mode}))
look("after")
""",
    )
    assert found["restart"] == expected.partition(" ")[0]
    assert [line[: len(expected)] for line in calls.read_text().splitlines()] == [expected]
    assert isinstance(found["after"], dict)
    assert bool(mounts_below(case.root, found["after"])) == (expected == "soft-reboot")
    assert flowkit.next_boot(case.host) == case.staged


@pytest.mark.parametrize(
    ("mode", "reason"), [("REQUIRED", "no: kernel differs: "), ("KEXEC", "this kernel has no kexec_file_load")]
)
def test_a_way_that_is_not_possible_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, reason: str
) -> None:
    case = make_updated(tmp_path, capsys, kernel=b"another kernel\n")
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        f"""
RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True, soft_reboot=SoftRebootMode.{mode}))
""",
    )
    assert str(found["restart"]).startswith("9: ")
    assert reason in str(found["restart"])
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.booted


def test_a_revert_restarts_nothing_and_clears_what_was_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
RECORD["first"] = await attempt(rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED))
look("prepared")
RECORD["second"] = await attempt(rollback_module.rollback(str(ROOT), apply=True))
look("reverted")
""",
    )
    assert (found["first"], found["second"]) == ("soft-reboot", "None")
    prepared, reverted = found["prepared"], found["reverted"]
    assert isinstance(prepared, dict)
    assert isinstance(reverted, dict)
    assert mounts_below(case.root, prepared)
    assert mounts_below(case.root, reverted) == {}
    assert not calls.exists()
    assert flowkit.next_boot(case.host) == case.booted


def test_a_systemctl_that_fails_is_an_error_that_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    add_tools(case.root, systemctl_status=1)
    found = run_in_namespace(
        case.root, 'RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True))'
    )
    assert str(found["restart"]).startswith("6: restarting: ")
    assert "Refused: it is busy" in str(found["restart"])
    assert flowkit.next_boot(case.host) == case.staged


def test_a_staged_update_is_finalized_before_the_soft_reboot_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    staged = stage(case.host, make_rootfs(tmp_path / "third", "third", KERNEL, None))
    (case.root / "etc/local.conf").write_text("mine")
    calls = add_tools(case.root)
    found = run_in_namespace(
        case.root,
        """
outcome = await next_boot.enter_next_boot(str(ROOT), apply=True)
RECORD["target"], RECORD["finalized"] = outcome.target, outcome.is_finalized
look("prepared")
RECORD["local"] = (ROOT / "run/nextroot/etc/local.conf").read_text()
""",
    )
    assert (found["target"], found["finalized"], found["local"]) == (staged, True, "mine")
    assert isinstance(found["prepared"], dict)
    assert mounts_below(case.root, found["prepared"])[""].source == f"composefs:{staged}".encode()
    assert "soft-reboot" in calls.read_text().splitlines()
    assert flowkit.next_boot(case.host) == staged


def test_a_next_root_that_cannot_be_attached_leaves_a_rollback_that_a_full_reboot_enters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    stage(case.host, make_rootfs(tmp_path / "third", "third", KERNEL, None))
    calls = add_tools(case.root)
    (case.root / "run/nextroot").write_text("somebody's file")
    found = run_in_namespace(
        case.root,
        """
try:
    await rollback_module.rollback(str(ROOT), to="previous", apply=True, soft_reboot=SoftRebootMode.REQUIRED)
except BootcFastError as error:
    RECORD["error"], RECORD["hint"] = f"{error.exit_code}: {error}", error.hint
""",
    )
    assert str(found["error"]).startswith("6: clearing ")
    assert found["hint"] == "`systemctl reboot` boots it through the firmware"
    assert flowkit.next_boot(case.host) == case.staged
    # The staged update is dropped: else its finalize would change the order again at that reboot.
    assert not case.host.marker.exists()
    assert not calls.exists()


def test_a_restart_that_ends_systemctl_and_us_has_succeeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_updated(tmp_path, capsys)
    calls = add_tools(case.root)
    systemctl = calls.with_name("systemctl")
    systemctl.write_text(systemctl.read_text().replace("\n[ 0 = 0 ]", "\nkill -TERM $PPID $$\n[ 0 = 0 ]"))
    found = run_in_namespace(
        case.root,
        """
import signal
with trio.CancelScope() as scope, trio.open_signal_receiver(signal.SIGTERM) as signals:
    async with trio.open_nursery() as nursery:
        async def watch():
            async for number in signals:
                RECORD["signal"] = number
                scope.cancel()
        nursery.start_soon(watch)
        RECORD["restart"] = await attempt(rollback_module.rollback(str(ROOT), apply=True))
        nursery.cancel_scope.cancel()
""",
    )
    assert found["restart"] == "reboot"
    assert found["signal"] == 15
    assert flowkit.next_boot(case.host) == case.staged
