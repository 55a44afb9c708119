"""softreboot.py and kexec.py on hosts in directories: what can be reached by a soft reboot, and what a kexec loads."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flowkit
import pytest
import trio

from bootc_fast import lab, message_ids
from bootc_fast.boot.efi.uki import parse_uki
from bootc_fast.composefs.boot_snapshot import BootSnapshot, open_boot_snapshot
from bootc_fast.composefs.kernel import comparable_arguments
from bootc_fast.composefs.survey import Survey, read_survey
from bootc_fast.errors import InvalidStateError, SoftRebootError
from bootc_fast.machine.host import open_host
from bootc_fast.machine.journal import PRIORITY_NOTICE
from bootc_fast.restart import kexec
from bootc_fast.restart.composefs import ComposefsSoftReboot, assemble_kexec
from bootc_fast.restart.nextroot import MountKind, RootLayout, parse_layout
from bootc_fast.restart.running import is_unseen_by_init
from bootc_fast.restart.soft import judge_soft_reboot
from bootc_fast.restart.ways import FullReboot, Ways
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KERNEL = b"one kernel for both\n"
CONFIG = "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n"
POLICY = {"selinux/config": CONFIG, "selinux/targeted/policy/policy.33": b"policy one"}


def make_updated(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    loader: Loader = Loader.SYSTEMD_BOOT,
    boot_type: BootType = BootType.BLS,
    *,
    systemd: int | None = 257,
    kernel: bytes = KERNEL,
    policies: tuple[lab.LabFiles, lab.LabFiles] = ({}, {}),
    forms: lab.LabForms | None = None,
) -> flowkit.Case:
    """A host that runs its second deployment, with the first as rollback target."""
    old, new = policies
    host = lab.make_host(directory, files=old, loader=loader, boot_type=boot_type, kernel=KERNEL, forms=forms)
    first = host.booted
    second = lab.stage_files(host, {"motd": "second\n", **new}, kernel=kernel)
    assert flowkit.run(capsys, "finalize", "--root", directory, "--on-conflict", "new")[0] == 0
    assert flowkit.run(capsys, "lab", "boot", directory)[0] == 0
    if systemd is not None:
        library = directory / f"usr/lib/systemd/libsystemd-shared-{systemd}.5-1.fc41.so"
        library.parent.mkdir(parents=True)
        library.touch()
    return flowkit.Case(host, booted=second, staged=first)


async def look(case: flowkit.Case, stack: AsyncExitStack) -> tuple[Survey, BootSnapshot]:
    survey = await read_survey(open_host(case.root))
    return survey, await open_boot_snapshot(survey, stack, loader=None, read_only=True)


async def _judge(case: flowkit.Case) -> str:
    async with AsyncExitStack() as stack:
        survey, found = await look(case, stack)
        return str(await judge_soft_reboot(survey, found, case.staged))


def judge(case: flowkit.Case) -> str:
    # Not an async test: the command line, which makes the hosts, runs a loop of its own.
    return trio.run(_judge, case)


def replace_in_cmdline(case: flowkit.Case, change: Callable[[str], str]) -> None:
    path = case.root / "proc/cmdline"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_a_deployment_with_equal_kernel_arguments_and_policy_is_capable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = make_updated(tmp_path / "h", capsys, loader, boot_type)
    assert judge(case) == "yes"


@pytest.mark.parametrize("boot_type", list(BootType))
def test_the_kernels_are_compared_where_no_origin_has_their_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], boot_type: BootType
) -> None:
    for name, kernel, expected in (("same", KERNEL, "yes"), ("other", b"other", "no: kernel differs: ")):
        case = make_updated(tmp_path / name, capsys, boot_type=boot_type, kernel=kernel)
        for digest in (case.booted, case.staged):
            origin = case.host.state_dir(digest) / f"{digest}.origin"
            lines = origin.read_text().splitlines(keepends=True)
            origin.write_text("".join(line for line in lines if not line.startswith("digest")))
        assert judge(case).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: f"BOOT_IMAGE=(hd0,gpt2)/vmlinuz {text}", "yes"),
        (lambda text: f"initrd=\\EFI\\Linux\\initrd {text}", "yes"),
        (lambda text: f"{text.strip()} quiet debug\n", "no: kernel arguments differ: without quiet debug"),
        (lambda text: f"{text.strip()} rw\n", "no: kernel arguments differ: the same ones, in another order or number"),
        (lambda text: text.replace("rw", "ro"), "no: kernel arguments differ: without ro, with rw"),
    ],
)
def test_kernel_arguments_are_compared_as_lists_without_what_loaders_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str], expected: str
) -> None:
    case = make_updated(tmp_path / "h", capsys)
    replace_in_cmdline(case, change)
    assert judge(case) == expected


def test_what_addons_of_a_uki_append_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = lab.LabForms(uki_addon=True)
    case = make_updated(tmp_path / "h", capsys, boot_type=BootType.UKI, forms=forms)
    # The lab's firmware has no stub that would have appended it at the boot.
    assert judge(case) == "no: kernel arguments differ: with lab.addon=1"
    replace_in_cmdline(case, lambda text: f"{text.strip()} lab.addon=1\n")
    assert judge(case) == "yes"
    assert assemble(case).command_line.endswith(" lab.addon=1")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (254, "yes"),
        (253, "no: systemd 253 runs, soft reboots need 254"),
        (None, "no: the version of the running systemd cannot be told"),
    ],
)
def test_an_older_or_unknown_systemd_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: int | None, expected: str
) -> None:
    assert judge(make_updated(tmp_path / "h", capsys, systemd=version)) == expected


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (POLICY, "yes"),
        ({**POLICY, "selinux/targeted/policy/policy.33": b"policy two"}, "no: SELinux policy differs: the content of "),
        # The highest number counts, not the last in the alphabet.
        ({**POLICY, "selinux/targeted/policy/policy.9": b"older"}, "yes"),
        ({"selinux/config": "SELINUXTYPE=../x\n"}, "no: comparing SELinux policies: etc/selinux/config has no SELINUX"),
        ({"selinux/config": CONFIG.replace("targeted", "none")}, "no: comparing SELinux policies: "),
    ],
)
def test_policies_are_compared_where_the_kernel_has_selinux(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: lab.LabFiles, expected: str
) -> None:
    case = make_updated(tmp_path / "h", capsys, policies=(new, POLICY))
    assert judge(case) == "yes"
    enforce = case.root / "sys/fs/selinux/enforce"
    enforce.parent.mkdir(parents=True)
    enforce.write_text("1")
    assert judge(case).startswith(expected)


def test_a_policy_that_only_one_side_has_differs_and_the_image_is_read_where_the_state_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path / "h", capsys, policies=(POLICY, POLICY))
    enforce = case.root / "sys/fs/selinux/enforce"
    enforce.parent.mkdir(parents=True)
    enforce.touch()
    etc = case.host.state_dir(case.staged) / "etc/selinux"
    etc.rename(etc.with_name("moved"))
    assert judge(case) == "yes"
    os.rename(case.root / "etc/selinux", case.root / "etc/moved")
    assert judge(case) == "no: SELinux policy differs: only the target has one"


def test_the_running_deployment_is_no_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_updated(tmp_path / "h", capsys)
    assert judge(flowkit.Case(case.host, case.booted, case.booted)) == "no: it is the deployment that runs"


def test_status_tells_what_is_capable_and_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kernel, is_capable in (("same", KERNEL, True), ("other", b"other", False)):
        case = make_updated(tmp_path / name, capsys, kernel=kernel)
        text = flowkit.run(capsys, "status", "--root", case.root, "-v")[1]
        assert f"Soft reboot: {'yes' if is_capable else 'no: kernel differs: '}" in text
        document = json.loads(flowkit.run(capsys, "status", "--root", case.root, "--json")[1])
        rollback = document["status"]["rollback"]
        assert rollback["softRebootCapable"] is is_capable
        assert rollback["bootcFast"]["softReboot"].startswith("yes" if is_capable else "no: kernel differs: ")
        assert document["status"]["booted"]["softRebootCapable"] is False


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--dry-run", "--apply", "--soft-reboot=auto"], 0, "Would restart by: systemctl soft-reboot"),
        (["--dry-run", "--apply"], 0, "Would restart by: systemctl reboot"),
        (["--dry-run", "--soft-reboot=kexec"], 9, "with --root no kernel is loaded"),
        (["--soft-reboot=required"], 9, "with --root nothing is mounted, loaded or restarted"),
        (["--apply"], 9, "with --root nothing is mounted, loaded or restarted"),
        (["--apply", "--to", "booted", "--dry-run"], 0, "nothing to restart into"),
    ],
)
def test_under_root_it_says_what_is_possible_and_restarts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    case = make_updated(tmp_path / "h", capsys)

    def run() -> None:
        found, out, err = flowkit.run(capsys, "rollback", "--root", case.root, *options)
        assert (found, said in out + err) == (code, True), out + err

    flowkit.assert_unchanged_by(case, run)


def test_auto_tells_every_reason_and_falls_back_to_a_full_reboot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path / "h", capsys, kernel=b"other")
    code, out, _err = flowkit.run(capsys, "rollback", "--root", case.root, "--dry-run", "--soft-reboot=auto")
    assert code == 0
    assert "no: kernel differs: " in out
    assert "preparing a kexec: with --root" in out
    assert "Would restart by: systemctl reboot" in out


def test_reset_under_root_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_updated(tmp_path / "h", capsys)
    code, _out, err = flowkit.run(capsys, "soft-reboot", "--root", case.root, "--reset")
    assert (code, "nothing to clear" in err) == (9, True)
    code, out, _err = flowkit.run(capsys, "soft-reboot", "--root", case.root, "--dry-run")
    assert (code, "nothing to restart into" in out) == (0, True)


@dataclass(frozen=True)
class Loaded:
    """What a kexec would have been given, and whether anybody could write to it."""

    kernel: bytes
    initrd: bytes | None
    command_line: str
    access: frozenset[int]
    error: str


async def _assemble(case: flowkit.Case) -> Loaded:
    async with AsyncExitStack() as stack:
        _survey, found = await look(case, stack)
        pieces = await assemble_kexec(found, case.staged, stack.enter_context(ExitStack()))
        files = [fd for fd in (pieces.kernel_fd, pieces.initrd_fd) if fd is not None]
        kernel, *initrds = [os.pread(fd, 1 << 20, 0) for fd in files]
        access = frozenset(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in files)
        # "kernel" is no kernel: a machine that has kexec refuses it, too.
        with pytest.raises(SoftRebootError) as caught:
            kexec.load_pieces(pieces)
        assert isinstance(caught.value.__cause__, OSError)
        return Loaded(kernel, initrds[0] if initrds else None, pieces.command_line.decode(), access, str(caught.value))


def assemble(case: flowkit.Case) -> Loaded:
    return trio.run(_assemble, case)


def test_a_kexec_of_an_entry_gets_its_files_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = assemble(case := make_updated(tmp_path / "h", capsys))
    assert (loaded.kernel, loaded.initrd, loaded.access) == (KERNEL, b"initrd\n", {os.O_RDONLY})
    assert f"composefs={case.staged}" in loaded.command_line.split()
    # The bare reason, for whoever says what was being done.
    assert loaded.error.startswith(("this kernel has no kexec", "the image is no kernel", "the kernel refuses"))


def test_several_initrds_are_joined_at_multiples_of_four(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = make_updated(tmp_path / "h", capsys)
    entries = case.host.boot_dir / "loader/entries"
    (entry,) = [path for path in entries.glob("*.conf") if f"composefs={case.staged}" in path.read_text()]
    text = entry.read_text()
    line = next(line for line in text.splitlines() if line.startswith("initrd"))
    entry.write_text(text.replace(line, f"{line}\n{line}"))
    assert assemble(case).initrd == b"initrd\n\0initrd\n"


def test_a_kexec_gets_what_grubenv_knows_for_a_variable_or_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path / "h", capsys, Loader.GRUB)
    boot = case.host.boot_dir
    (entry,) = [
        path for path in (boot / "loader/entries").glob("*.conf") if f"composefs={case.staged}" in path.read_text()
    ]
    text = entry.read_text()
    line = next(line for line in text.splitlines() if line.startswith("initrd"))
    entry.write_text(text.replace(line, f"{line} $tuned_initrd").replace("options ", "options $tuned_params "))
    for lacking in (("tuned_params=a", "$tuned_initrd"), ("tuned_initrd=/tuned.img", "$tuned_params")):
        (boot / "grub2").mkdir(exist_ok=True)
        (boot / "grub2/grubenv").write_text(f"# GRUB Environment Block\n{lacking[0]}\n".ljust(1024, "#"))
        (boot / "tuned.img").write_bytes(b"tuned")
        with pytest.raises(SoftRebootError) as caught:
            assemble(case)
        assert lacking[1] in str(caught.value)
    values = "tuned_params=nosmt quiet\ntuned_initrd=/tuned.img\n"
    (boot / "grub2/grubenv").write_text(f"# GRUB Environment Block\n{values}".ljust(1024, "#"))
    loaded = assemble(case)
    assert loaded.initrd == b"initrd\n\0tuned"
    assert loaded.command_line.startswith("nosmt quiet ")


@pytest.mark.parametrize("loader", [Loader.SYSTEMD_BOOT, Loader.GRUB])
def test_a_kexec_of_a_uki_gets_its_sections_from_files_that_nobody_can_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader
) -> None:
    case = make_updated(tmp_path / "h", capsys, loader, BootType.UKI)
    (path,) = (case.root / "efi/EFI/Linux").rglob(f"*{case.staged}.efi")
    uki = parse_uki(path.read_bytes())
    loaded = assemble(case)
    assert (loaded.kernel, loaded.initrd, loaded.access) == (KERNEL, b"initrd\n", {os.O_RDONLY})
    assert hashlib.sha256(KERNEL + b"initrd\n").hexdigest() == uki.boot_digest
    assert loaded.command_line == uki.cmdline


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", "", RootLayout()),
        ("[etc]\nmount = 'overlay'\ntransient = true\n", "", RootLayout(etc=MountKind.OVERLAY)),
        ("[var]\ntransient = true\n[other]\nx = 1\n", "", RootLayout(var=MountKind.TRANSIENT)),
        ("[root]\ntransient = true\n", "", RootLayout(is_root_transient=True)),
        ("", "quiet systemd.volatile=state", RootLayout(var=MountKind.NONE)),
        ("[var]\nmount = 'bind'\n", "systemd.volatile=state", RootLayout()),
    ],
)
def test_the_layout_is_read_as_the_initramfs_reads_it(text: str, line: str, expected: RootLayout) -> None:
    assert parse_layout(text, line) == expected


@pytest.mark.parametrize(
    "text", ["[etc", "[etc]\nmount = 'Bind'\n", "[var]\nmount = 1\n", "[root]\ntransient = 'yes'\n", "etc = 1\n"]
)
def test_a_malformed_layout_is_an_error(text: str) -> None:
    with pytest.raises(InvalidStateError, match=r"setup-root-conf\.toml"):
        parse_layout(text)


def test_arguments_keep_their_order_and_quotes() -> None:
    line = 'BOOT_IMAGE=/vmlinuz a="b c" composefs=?00 rw composefs.digest=v1 initrd=/x rw quiet'
    assert comparable_arguments(line) == ["a=b c", "rw", "rw", "quiet"]


def test_a_prepared_restart_is_told_to_the_journal_with_the_way_and_why_it_is_no_faster_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, dict[str, object]]] = []

    def send(_host: object, message: str, *, message_id: str, fields: dict[str, object], priority: int) -> None:
        assert priority == PRIORITY_NOTICE
        told.append((message, message_id, fields))

    monkeypatch.setattr("bootc_fast.restart.ways.send_journal", send)
    ways: Ways[None] = Ways(open_host(tmp_path), (FullReboot(),), target="ab" * 32)
    ways.notes += ["no: kernel differs", "no kexec"]
    ways.commit(None)
    ways.finish()
    ((message, message_id, fields),) = told
    assert message == f"Prepared: `systemctl reboot` enters {'ab' * 32} (no: kernel differs; no kexec)"
    assert message_id == message_ids.RESTART_PREPARED
    assert fields == {
        "BOOTC_FAST_OPERATION": "restart",
        "BOOTC_FAST_RESTART": "reboot",
        "BOOTC_FAST_NEXT_BOOT": "ab" * 32,
        "BOOTC_FAST_RESTART_NOTES": "no: kernel differs\nno kexec",
    }


def test_a_mount_namespace_other_than_systemds_is_noticed_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    host = open_host(tmp_path)
    assert not is_unseen_by_init(host)
    for process, number in (("self", 1), ("1", 1)):
        (tmp_path / "proc" / process / "ns").mkdir(parents=True)
        (tmp_path / "proc" / process / "ns/mnt").symlink_to(f"mnt:[{number}]")
        assert not is_unseen_by_init(host)
    (tmp_path / "proc/1/ns/mnt").unlink()
    (tmp_path / "proc/1/ns/mnt").symlink_to("mnt:[2]")
    assert is_unseen_by_init(host)


async def restart_into(case: flowkit.Case) -> None:
    async with AsyncExitStack() as stack:
        survey, found = await look(case, stack)
        ComposefsSoftReboot(survey, found, VerityDigest(case.staged), stack).commit(None)


def test_a_restart_drops_the_staged_marker_of_what_runs_and_keeps_anothers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path / "h", capsys)
    for digest, is_kept in ((case.booted, False), (case.staged, True)):
        case.host.marker.parent.mkdir(exist_ok=True)
        case.host.marker.write_text(json.dumps({"depl_id": digest}))
        trio.run(restart_into, case)
        assert case.host.marker.exists() is is_kept
