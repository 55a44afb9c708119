"""Preparing a restart with this kernel: every loader, dry runs, damaged images, failures and cancellation anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flowkit
import pytest
from nextroot_kit import KERNEL, add_tools, esp_device, make_updated, mounts_below, run_in_namespace

from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

# What an x86 kernel image has at the start, as far as it is looked at.
BZIMAGE = bytes(0x202) + b"HdrS" + bytes(512)


def table(record: dict[str, object], name: str) -> dict[str, object]:
    found = record[name]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_every_loaders_entries_lead_to_a_next_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = make_updated(tmp_path, capsys, loader=loader, boot_type=boot_type)
    with esp_device(case.root) as esp:
        add_tools(case.root, esp=esp)
        found = run_in_namespace(
            case.root,
            """
outcome = await rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED)
RECORD["restart"], RECORD["next"] = outcome.restart.value, outcome.next_boot
look("prepared")
RECORD["reset"] = await restart.reset_restart(str(ROOT))
look("cleared")
""",
        )
    assert (found["restart"], found["next"], found["reset"]) == ("soft-reboot", case.staged, True)
    prepared = table(found, "prepared")
    mounts = mounts_below(case.root, prepared)
    assert set(mounts) == {"", "/etc", "/var", "/sysroot"}
    assert mounts[""].source == f"composefs:{case.staged}".encode()
    assert (prepared["motd"], prepared["large"]) == ("first", "0123456789abcdef" * 4096)
    assert mounts_below(case.root, table(found, "cleared")) == {}


@pytest.mark.parametrize(
    ("config", "files", "reason"),
    [
        (None, {}, None),
        ("[etc]\nmount = 'overlay'\n[var]\nmount = 'overlay'\n", {}, None),
        ("[root]\ntransient = true\n", {}, None),
        ("[etc]\nmount = 'nowhere'\n", {}, "[etc] mount is 'nowhere', not none, bind, overlay or transient"),
        (None, {"usr/lib/systemd/systemd": None}, "it has no init: neither usr/lib/systemd/systemd nor sbin/init nor"),
        (None, {"usr/lib/os-release": None}, "it has no os-release: neither etc/os-release nor usr/lib/os-release"),
        (None, {"usr/lib/systemd/systemd": b""}, "it has no init"),
        (None, {"usr/lib/systemd/systemd": None, "sbin/init": b"another init"}, None),
    ],
)
def test_a_dry_run_tries_it_and_says_what_the_real_run_says(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: str | None,
    files: dict[str, bytes | None],
    reason: str | None,
) -> None:
    case = make_updated(tmp_path, capsys, config=config, files=files)
    add_tools(case.root)
    before = flowkit.snapshot(case.root / "sysroot")
    found = run_in_namespace(
        case.root,
        """
look("before")
for dry_run in (True, False):
    call = rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED, dry_run=dry_run)
    RECORD[str(dry_run)] = await attempt(call)
    look(f"after {dry_run}")
    if dry_run:
        RECORD["state"] = sorted(os.listdir(ROOT / "sysroot/state/deploy" / sys.argv[2]))
""".replace("sys.argv[2]", repr(case.staged)),
    )
    assert found["True"] == found["False"]
    assert table(found, "after True")["mountinfo"] == table(found, "before")["mountinfo"]
    assert table(found, "after True")["top"] is None
    assert not {"upper", "work"} & set(map(str, found["state"] if isinstance(found["state"], list) else ()))
    if reason is None:
        assert found["False"] == "soft-reboot"
        return
    assert str(found["False"]).startswith("9: ")
    assert reason in str(found["False"])
    assert mounts_below(case.root, table(found, "after False")) == {}
    assert flowkit.snapshot(case.root / "sysroot") == before


def test_damaged_state_or_an_init_that_cannot_be_read_are_refused_by_dry_and_real_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    add_tools(case.root)
    statements = """
for dry_run in (True, False):
    call = rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.REQUIRED, dry_run=dry_run)
    RECORD[str(dry_run)] = await attempt(call)
look("after")
"""
    state = case.host.state_dir(case.staged)
    init = b"an init, an object too\n" * 4096
    (objects,) = [path for path in (case.root / "sysroot/composefs/objects").rglob("*") if _holds(path, init)]
    for path, code, reason in (
        # Without it no boot leads there either: the rollback itself is refused.
        (state / "etc", 10, "its etc is missing"),
        (state / "var", 9, "mounting var (bind): No such file or directory"),
        (objects, 9, "checking the next root: reading usr/lib/systemd/systemd: No such file or directory"),
    ):
        path.rename(path.with_name("moved"))
        found = run_in_namespace(case.root, statements)
        path.with_name("moved").rename(path)
        for run in ("True", "False"):
            assert str(found[run]).startswith(f"{code}: "), (path, found)
            assert reason in str(found[run]), (path, found)
        assert mounts_below(case.root, table(found, "after")) == {}
        assert flowkit.next_boot(case.host) == case.booted


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def test_an_init_whose_object_lacks_the_required_verity_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make_updated(tmp_path, capsys)
    found = run_in_namespace(
        case.root,
        f"""
from bootc_fast.restart import nextroot
host, digest = open_live(ROOT), {case.staged!r}
image_fd = host.open_file(host.image_file(digest))
for required in (False, True):
    try:
        os.close(nextroot.assemble(nextroot.NextRoot(host, digest, image_fd, required, "")))
        RECORD[str(required)] = "assembled"
    except BootcFastError as error:
        RECORD[str(required)] = f"{{error.exit_code}}: {{error}}"
look("after")
""",
    )
    assert found["False"] == "assembled"
    assert found["True"] == "11: checking the next root: reading usr/lib/systemd/systemd: Input/output error"
    assert mounts_below(case.root, table(found, "after")) == {}


# Counts the calls that mount, and at one of them fails or cancels; what is there after each attempt is recorded.
ATTEMPTS = """
import errno
from bootc_fast import _core
token = trio.lowlevel.current_trio_token()
MODE, state = sys.argv[2], {"left": 0}

def wrap(name):
    real = getattr(_core, name)
    def counted(*args, **kwargs):
        state["left"] -= 1
        if state["left"] == 0 and MODE == "fail":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if state["left"] == 0:
            token.run_sync_soon(state["scope"].cancel)
        return real(*args, **kwargs)
    setattr(_core, name, counted)

for name in ("mount_detached", "clone_mount", "attach_mount", "isolate_mount", "call_with_private_mounts"):
    wrap(name)

def mounted():
    return Path("/proc/self/mountinfo").read_text()

before, attempts = (mounted(), len(os.listdir("/proc/self/fd"))), []
for number in range(1, 100):
    state["left"], result = number, "cancelled"
    with trio.CancelScope() as scope:
        state["scope"] = scope
        result = await attempt(rollback_module.rollback(str(ROOT), to="previous", soft_reboot=SoftRebootMode.REQUIRED))
    is_done = state["left"] > 0
    state["left"] = 0
    after = (mounted(), len(os.listdir("/proc/self/fd")))
    attempts.append([result, after == before])
    if after[0] != before[0]:
        await restart.reset_restart(str(ROOT))
        await rollback_module.rollback(str(ROOT), to="booted")
    if is_done:
        break
RECORD["attempts"] = attempts
"""


@pytest.mark.parametrize("mode", ["fail", "cancel"])
def test_a_failure_or_cancellation_at_any_mount_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    case = make_updated(tmp_path, capsys, config="[etc]\nmount = 'overlay'\n[var]\ntransient = true\n")
    add_tools(case.root)
    found = run_in_namespace(case.root, ATTEMPTS.replace("sys.argv[2]", repr(mode)))
    attempts = found["attempts"]
    assert isinstance(attempts, list)
    *stopped, (last, _) = attempts
    assert last == "soft-reboot"
    assert len(stopped) > 15
    if mode == "fail":
        # Before the commit the way is refused; the last mount is the one that puts it in force.
        *earlier, (attached, _) = stopped
        # Comparing /etc is for information, and its failure a warning: the next root is there then.
        refused = [text for text, is_clean in earlier if is_clean]
        assert {text[:2] for text in refused} == {"6:", "9:"}
        assert all("Cannot allocate memory" in text for text in [*refused, attached])
        assert [text for text, is_clean in earlier if not is_clean] == ["soft-reboot"]
        assert attached.startswith("6: attaching the next root at ")
    else:
        # A cancellation that comes with the commit waits for its end.
        assert {text for text, is_clean in stopped if is_clean} == {"cancelled"}
        assert {text for text, is_clean in stopped if not is_clean} <= {"soft-reboot"}
    assert flowkit.next_boot(case.host) in {case.booted, case.staged}


@pytest.mark.parametrize(
    ("kernel", "capabilities", "dry", "real"),
    [
        (BZIMAGE, "000001ffffffffff", "kexec", "9: preparing a kexec: this kernel has no kexec_file_load"),
        (BZIMAGE, "000001ffffbfffff", "9: preparing a kexec: loading a kernel needs root (CAP_SYS_BOOT)", None),
        (KERNEL, "000001ffffffffff", "9: preparing a kexec: the image is no kernel that can be loaded", None),
    ],
)
def test_a_dry_run_of_a_kexec_reads_all_that_would_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, kernel: bytes, capabilities: str, dry: str, real: str | None
) -> None:
    case = make_updated(tmp_path, capsys, files={"usr/lib/modules/6.12.0/vmlinuz": kernel})
    add_tools(case.root)
    loaded = case.root / "sys/kernel/kexec_loaded"
    loaded.parent.mkdir(parents=True)
    loaded.write_text("0\n")
    (case.root / "proc/self/status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
    found = run_in_namespace(
        case.root,
        """
for dry_run in (True, False):
    call = rollback_module.rollback(str(ROOT), soft_reboot=SoftRebootMode.KEXEC, dry_run=dry_run)
    RECORD[str(dry_run)] = await attempt(call)
""",
    )
    assert found["True"] == dry
    # This machine's kernel has no kexec, which only the attempt tells: /sys says otherwise here.
    assert found["False"] == (real or dry)
    assert flowkit.next_boot(case.host) == case.booted


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ("[None, None]", "no: its image has no fs-verity, and must have it"),
        ("['x', None]", "no: its init has no fs-verity, and must have it"),
        ("['x', 'y']", "yes"),
    ],
)
def test_the_verdict_tells_what_lacks_the_required_verity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: str, verdict: str
) -> None:
    case = make_updated(tmp_path, capsys, missing_verity=False)
    add_tools(case.root)
    # This kernel has no fs-verity: its answers are given here, for image and init in turn.
    found = run_in_namespace(
        case.root,
        f"""
from contextlib import AsyncExitStack
import bootc_fast.restart.soft as softreboot
from bootc_fast.composefs.boot_snapshot import open_boot_snapshot
from bootc_fast.composefs.survey import read_survey
answers = iter({measured})
softreboot._core.measure_fd = lambda fd: next(answers)
async with AsyncExitStack() as stack:
    survey = await read_survey(open_live(ROOT))
    boot = await open_boot_snapshot(survey, stack, loader=None, read_only=True)
    RECORD["verdict"] = str(await softreboot.judge_soft_reboot(survey, boot, {case.staged!r}))
""",
    )
    assert found["verdict"] == verdict
