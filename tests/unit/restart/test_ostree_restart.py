"""The ways into an ostree deployment: judged, tried and refused before anything is written."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import flowkit
import pytest
from ostree_hosts import document, make_host, make_kernel, rollback

from bootc_fast.machine.host import open_host
from bootc_fast.ostree.libostree import load_libostree
from bootc_fast.ostree.sysroot import read_ostree
from bootc_fast.restart.kexec import check_pieces
from bootc_fast.restart.ostree import assemble_ostree_kexec

if TYPE_CHECKING:
    from pathlib import Path

    from ostree_hosts import OstreeHost

TOO_OLD = "cannot prepare one, 2025.3 can"


@cache
def can_prepare() -> bool:
    """Whether the libostree at hand can; asked by a test, since where there is none tests are skipped."""
    return hasattr(load_libostree()[0].Sysroot, "deployment_set_soft_reboot")


@pytest.fixture
def host(tmp_path: Path) -> OstreeHost:
    """Two deployments with one kernel, the same arguments, and composefs switched on."""
    host = make_host(tmp_path, 1, 2, kernel=7)
    host.run_from_mount(2)
    for number in (1, 2):
        switch_composefs(host, number, "yes")
    library = host.root / "usr/lib/systemd/libsystemd-shared-255.so"
    library.parent.mkdir(parents=True)
    library.touch()
    return host


def switch_composefs(host: OstreeHost, number: int, value: str) -> None:
    path = host.deployment(number) / "usr/lib/ostree/prepare-root.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"[composefs]\nenabled = {value}\n")


def judge(capsys: pytest.CaptureFixture[str], host: OstreeHost) -> str:
    """Return what speaks against a soft reboot besides the libostree at hand."""
    entry = document(capsys, host)["status"]["rollback"]
    verdict: str = entry["bootcFast"]["softReboot"]
    assert entry["softRebootCapable"] == (verdict == "yes")
    if can_prepare():
        return verdict
    assert TOO_OLD in verdict
    reasons = [one for one in verdict.removeprefix("no: ").split("; ") if TOO_OLD not in one]
    return f"no: {'; '.join(reasons)}" if reasons else "yes"


def test_with_the_same_kernel_arguments_and_composefs_nothing_stands_against_it(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(capsys, host) == "yes"
    assert document(capsys, host)["status"]["booted"]["bootcFast"]["softReboot"] is None


@pytest.mark.parametrize("value", ["no", "maybe", "0"])
def test_without_composefs_in_the_target_libostree_makes_no_next_root(
    host: OstreeHost, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    switch_composefs(host, 1, value)
    expected = "no: usr/lib/ostree/prepare-root.conf does not enable composefs, and libostree wants it"
    assert judge(capsys, host) == expected
    cmdline = host.root / "proc/cmdline"
    cmdline.write_text(f"{cmdline.read_text().strip()} ostree.prepare-root.composefs=1\n")
    assert judge(capsys, host) == "yes"
    cmdline.write_text(f"{cmdline.read_text().strip()} ostree.prepare-root.composefs=0\n")
    assert "switches composefs off" in judge(capsys, host)


def test_the_target_s_own_etc_decides_on_composefs_before_its_usr(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    path = host.deployment(1) / "etc/ostree/prepare-root.conf"
    path.parent.mkdir()
    path.write_text("[composefs]\nenabled=no\n")
    assert judge(capsys, host).startswith("no: etc/ostree/prepare-root.conf does not")
    path.write_text("[composefs]\nenabled=signed\n")
    assert judge(capsys, host) == "yes"


def test_another_kernel_and_other_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = make_host(tmp_path, 1, 2)
    verdict = document(capsys, host)["status"]["rollback"]["bootcFast"]["softReboot"]
    assert "kernel differs: " in verdict
    entry = next(one for one in (host.sysroot / "boot/loader/entries").iterdir() if "6.1" in one.read_text())
    entry.write_text(entry.read_text().replace("root=LABEL=x", "root=LABEL=x quiet"))
    verdict = document(capsys, host)["status"]["rollback"]["bootcFast"]["softReboot"]
    assert "kernel arguments differ: with quiet" in verdict


def test_another_order_of_the_arguments_and_an_entry_without_ostree_are_differences_too(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = host.find_commit(1)
    entries = list((host.sysroot / "boot/loader/entries").iterdir())
    link = os.path.basename(os.path.realpath(host.deployment(1)))
    assert link == f"{commit}.0"
    for entry in entries:
        entry.write_text(entry.read_text().replace("root=LABEL=x", "root=LABEL=x rw"))
    older = min(entries, key=lambda path: path.name)
    older.write_text(older.read_text().replace("root=LABEL=x rw", "rw root=LABEL=x"))
    assert judge(capsys, host) == "no: kernel arguments differ: the same ones, in another order or number"


def test_another_selinux_policy_is_a_difference_where_selinux_is_on(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, policy in ((1, "one"), (2, "two")):
        directory = host.deployment(number) / "usr/etc/selinux"
        (directory / "targeted/policy").mkdir(parents=True)
        (directory / "config").write_text("SELINUX=enforcing\nSELINUXTYPE=targeted\n")
        (directory / "targeted/policy/policy.33").write_text(policy)
        (directory / "targeted/contexts/files").mkdir(parents=True)
        (directory / "targeted/contexts/files/file_contexts").write_text("/.* system_u:object_r:usr_t:s0\n")
        etc = host.deployment(number) / "etc/selinux"
        etc.symlink_to("../usr/etc/selinux")
    assert judge(capsys, host) == "yes"
    (host.root / "sys/fs/selinux").mkdir(parents=True)
    (host.root / "sys/fs/selinux/enforce").write_text("1")
    assert judge(capsys, host) == "no: SELinux policy differs"
    (host.deployment(1) / "usr/etc/selinux/targeted/policy/policy.33").write_text("two")
    assert judge(capsys, host) == "yes"


def test_an_old_systemd_is_named(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    library = host.root / "usr/lib/systemd/libsystemd-shared-255.so"
    library.rename(library.with_name("libsystemd-shared-252.so"))
    assert judge(capsys, host) == "no: systemd 252 runs, soft reboots need 254"


def test_a_way_that_is_not_possible_is_refused_before_a_write_and_auto_says_why(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    switch_composefs(host, 1, "no")
    for options in (
        ["--soft-reboot=required"],
        ["--soft-reboot=required", "--dry-run"],
        ["--soft-reboot=kexec", "--dry-run"],
        ["--soft-reboot=auto"],
        ["--apply"],
    ):
        code, out, err = rollback(capsys, host, *options)
        assert (code, out) == (9, "")
        assert "--root" in err or "composefs" in err
        assert host.order() == ["2", "1"]
    code, out, _ = rollback(capsys, host, "--apply", "--soft-reboot=auto", "--dry-run")
    first, second, last = out.splitlines()[-3:]
    assert (code, last) == (0, "Would restart by: systemctl reboot")
    assert "preparing a soft reboot to" in first
    assert "does not enable composefs" in first
    assert (TOO_OLD in first) == (not can_prepare())
    assert second.endswith("with --root no kernel is loaded")
    assert host.order() == ["2", "1"]


def test_a_dry_run_names_the_soft_reboot_where_the_library_has_it(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = rollback(capsys, host, "--apply", "--soft-reboot=required", "--dry-run")
    if can_prepare():
        assert (code, out.splitlines()[-1]) == (0, "Would restart by: systemctl soft-reboot")
    else:
        assert (code, TOO_OLD in err, "hint: `systemctl reboot`" in err) == (9, True, True)
    assert host.order() == ["2", "1"]


def test_there_is_nothing_to_restart_into_where_what_runs_boots_next(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback(capsys, host)[0] == 0
    code, out, _ = rollback(capsys, host, "--apply", "--soft-reboot=auto", "--dry-run")
    assert (code, "nothing to restart into" in out, "restart by" in out) == (0, True, False)


async def test_kexec_gets_kernel_initrds_and_command_line_of_the_boot_entry(host: OstreeHost) -> None:
    survey = await read_ostree(open_host(host.root))
    target = survey.rollback
    assert target is not None
    with ExitStack() as stack:
        pieces = assemble_ostree_kexec(open_host(host.root), target, stack)
        check_pieces(pieces)
        assert os.pread(pieces.kernel_fd, 1 << 16, 0) == make_kernel(7)
        assert pieces.initrd_fd is not None
        assert os.pread(pieces.initrd_fd, 1 << 16, 0) == b"initrd 7"
        entries = [one.read_text() for one in (host.sysroot / "boot/loader/entries").iterdir()]
        assert any(f"options {pieces.command_line.decode()}\n" in text for text in entries)
        assert b"ostree=/ostree/boot." in pieces.command_line
        # Several are one after the other, each where the kernel looks for the next archive.
        boot = replace(target.boot, initrds=(*target.boot.initrds, *target.boot.initrds))
        twice = assemble_ostree_kexec(open_host(host.root), replace(target, boot=boot), stack)
        assert twice.initrd_fd is not None
        assert os.pread(twice.initrd_fd, 1 << 16, 0) == b"initrd 7initrd 7"


def test_the_next_boot_is_entered_without_a_rollback_too(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    dry_run = ("soft-reboot", "--root", host.root, "--mode=auto", "--dry-run")
    code, out, _ = flowkit.run(capsys, *dry_run)
    assert (code, "nothing to restart into" in out, "restart by" in out) == (0, True, False)
    assert rollback(capsys, host)[0] == 0
    code, out, _ = flowkit.run(capsys, *dry_run)
    way = "soft-reboot" if can_prepare() else "reboot"
    assert (code, out.splitlines()[0]) == (0, f"Next boot: {host.find_commit(1)[:16]}….0")
    assert out.splitlines()[-1] == f"Would restart by: systemctl {way}"
    # What is staged boots next, unless it is locked.
    host.commit(3)
    host.stage(3)
    code, out, _ = flowkit.run(capsys, *dry_run)
    assert (code, out.splitlines()[0]) == (0, f"Next boot: {host.find_commit(3)[:16]}….1")
    host.stage(3, is_locked=True)
    assert flowkit.run(capsys, *dry_run)[1].startswith(f"Next boot: {host.find_commit(1)[:16]}….0\n")
    assert flowkit.run(capsys, "soft-reboot", "--root", host.root)[0] == 9
    assert host.order() == ["1", "2"]
