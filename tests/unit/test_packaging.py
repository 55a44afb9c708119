"""packaging/: what is installed on a real host; judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootc_fast import message_ids

UNITS = Path(__file__).parents[2] / "packaging/systemd"
_TARGETS = (
    "basic.target", "boot-complete.target", "final.target", "local-fs.target", "multi-user.target", "network.target",
    "sysinit.target", "shutdown.target",
)  # fmt: skip

# `systemd-analyze security --offline`, 0.0 safe to 10.0 unsafe; a change of a unit that raises it is noticed here.
_EXPOSURE = {
    "bootc-fast-finalize-staged.service": 3.0,
    "bootc-fast-boot-complete.service": 2.7,
    "bootc-fast-health.service": 9.6,
}
_SANDBOXED = ("bootc-fast-finalize-staged.service", "bootc-fast-boot-complete.service")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root with the units, the command they run, and the targets that they name."""
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(UNITS, units, symlinks=True)
    for name in (*_TARGETS, "systemd-journal-flush.service"):
        shutil.copy(Path("/usr/lib/systemd/system") / name, units / name)
    (tmp_path / "etc").mkdir()
    command = tmp_path / "usr/bin/bootc-fast"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    return tmp_path


def _verify(root: Path, *units: str) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=one", *units]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def test_units_pass_systemd_analyze_verify(root: Path) -> None:
    done = _verify(root, *_EXPOSURE)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_waits_for_the_whole_boot_before_boot_complete_makes_no_circle(root: Path) -> None:
    """As systemd's own ``systemd-boot-check-no-failures.service`` does."""
    units = root / "usr/lib/systemd/system"
    (units / "late-check.service").write_text(
        "[Unit]\nAfter=multi-user.target\nBefore=boot-complete.target\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/bootc-fast\n"
    )
    for target, unit in (
        ("boot-complete.target.requires", "late-check.service"),
        ("boot-complete.target.requires", "bootc-fast-health.service"),
    ):
        (units / target).mkdir(exist_ok=True)
        (units / target / unit).symlink_to(units / unit)
    done = _verify(root, "multi-user.target")
    assert "cycle" not in done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    # And one would be seen.
    text = (units / "bootc-fast-boot-complete.service").read_text()
    (units / "bootc-fast-boot-complete.service").write_text(text.replace("DefaultDependencies=no\n", ""))
    assert "cycle" in _verify(root, "multi-user.target").stderr


def test_health_checks_can_come_after_a_unit_that_can_fail_the_boot(root: Path) -> None:
    """As docs/health.md has it, for a unit that waits for the whole boot; what is documented is what is tried."""
    text = (UNITS.parents[1] / "docs/health.md").read_text()
    (drop_in,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    assert "bootc-fast-health.service" in drop_in
    units = root / "usr/lib/systemd/system"
    (units / "late-check.service").write_text(
        "[Unit]\nAfter=multi-user.target\nBefore=boot-complete.target\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/bootc-fast\n"
    )
    (units / "late-check.service.d").mkdir()
    (units / "late-check.service.d/50-health.conf").write_text(drop_in)
    (units / "boot-complete.target.requires").mkdir()
    for unit in ("late-check.service", "bootc-fast-health.service"):
        (units / "boot-complete.target.requires" / unit).symlink_to(units / unit)
    done = _verify(root, "multi-user.target")
    assert (done.returncode, done.stderr) == (0, "")
    # The drop-in is read: in the other direction it is a circle.
    (units / "late-check.service.d/50-health.conf").write_text(f"{drop_in}After=boot-complete.target\n")
    assert "cycle" in _verify(root, "multi-user.target").stderr


def test_systemd_analyze_verify_would_notice_a_broken_unit(root: Path) -> None:
    unit = root / "usr/lib/systemd/system/bootc-fast-finalize-staged.service"
    unit.write_text(unit.read_text().replace("/usr/bin/bootc-fast", "/usr/bin/missing"))
    assert _verify(root, unit.name).returncode != 0


def test_drop_in_points_bootcs_own_unit_at_us(root: Path) -> None:
    bootc = root / "usr/lib/systemd/system/bootc-finalize-staged.service"
    bootc.write_text(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/usr/bin/bootc composefs-finalize-staged\n"
    )
    done = _verify(root, bootc.name)  # /usr/bin/bootc is missing: passes only if the drop-in replaced it
    assert (done.returncode, done.stderr) == (0, "")


def test_units_are_on_by_links_that_reach_hosts_that_are_installed_already(root: Path) -> None:
    """A preset is applied at a host's first boot alone; these links come with every new image's /usr."""
    units = root / "usr/lib/systemd/system"
    both = {"bootc-fast-finalize-staged.service", "bootc-fast-boot-complete.service"}
    assert {path.name for path in (units / "multi-user.target.wants").iterdir()} == both
    for name in both:
        link = units / "multi-user.target.wants" / name
        assert link.resolve() == units / name
        # A unit that is on by such a link and has an [Install] section is shown as disabled.
        assert "[Install]" not in link.read_text()
    assert "[Install]" in (units / "bootc-fast-health.service").read_text()
    assert not list(units.parent.parent.rglob("*.preset"))


def test_masking_leaves_bootcs_own_finalize_in_charge(root: Path) -> None:
    """The two links of docs/image-builder.md; what is documented is what is run."""
    text = (UNITS.parents[1] / "docs/image-builder.md").read_text()
    (script,) = re.findall(r"```\n(ln -s /dev/null .*?)```", text, re.DOTALL)
    units = root / "usr/lib/systemd/system"
    bootc = units / "bootc-finalize-staged.service"
    bootc.write_text(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/usr/bin/bootc composefs-finalize-staged\n"
    )
    ours = _verify(root, bootc.name)
    assert (ours.returncode, ours.stderr) == (0, "")
    (root / "etc/systemd/system").mkdir(parents=True)
    subprocess.run(["bash", "-euc", script.replace(" /etc/", f" {root}/etc/")], check=True)
    theirs = _verify(root, bootc.name)
    assert "Command /usr/bin/bootc is not executable" in theirs.stderr
    masked = _verify(root, "bootc-fast-finalize-staged.service")
    assert "bootc-fast-finalize-staged.service is masked" in masked.stderr


@pytest.mark.parametrize(("unit", "exposure"), _EXPOSURE.items())
def test_exposure_is_the_recorded_one(unit: str, exposure: float) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= exposure


def test_finalize_unit_orders_its_stop_as_bootc_does() -> None:
    text = (UNITS / "bootc-fast-finalize-staged.service").read_text()
    for line in (
        "DefaultDependencies=no",
        "RequiresMountsFor=/sysroot",
        "After=local-fs.target systemd-journal-flush.service",
        "Before=basic.target final.target",
        "Conflicts=final.target",
        "IgnoreOnIsolate=yes",
        "RemainAfterExit=yes",
        "ExecStop=/usr/bin/bootc-fast composefs-finalize-staged",
        "TimeoutStopSec=5m",
        "ProtectHome=yes",
        "ReadOnlyPaths=/etc",
    ):
        assert line in text.splitlines()


def test_no_unit_that_finalizes_is_stopped_by_isolate() -> None:
    """It would finalize while the system stays up; what is edited afterwards would be lost (story: tests/vm)."""
    texts = {path: path.read_text() for path in UNITS.rglob("*") if path.is_file() and not path.is_symlink()}
    finalizing = {path: text for path, text in texts.items() if "ExecStop=/usr/bin/bootc-fast" in text}
    assert len(finalizing) == 2
    for path, text in finalizing.items():
        unit = text.partition("[Unit]")[2].partition("\n[")[0]
        assert "IgnoreOnIsolate=yes" in unit.splitlines(), path


@pytest.mark.parametrize("unit", _SANDBOXED)
def test_every_capability_has_a_comment_of_the_call_that_needs_it(unit: str) -> None:
    lines = (UNITS / unit).read_text().splitlines()
    places = [number for number, line in enumerate(lines) if line.startswith("CapabilityBoundingSet=")]
    assert places
    for number in places:
        assert re.match(r"# .*\w+\(2\)", lines[number - 1]), lines[number]


@pytest.mark.parametrize("unit", _SANDBOXED)
def test_selinux_may_change_the_programs_domain(unit: str) -> None:
    """NoNewPrivileges would keep it in systemd's own; nor may anything that implies it for root be set."""
    text = (UNITS / unit).read_text()
    settings = [line.partition("=")[0] for line in text.splitlines() if not line.startswith("#")]
    assert "NoNewPrivileges" not in settings
    assert not {"User", "DynamicUser"} & set(settings)
    for name in ("MemoryDenyWriteExecute=yes", "ProtectProc=invisible", "IPAddressDeny=any"):
        assert name in text.splitlines()


def test_message_catalog_explains_every_message_id() -> None:
    ids = {value for name, value in vars(message_ids).items() if name.isupper() and isinstance(value, str)}
    text = (UNITS.parent / "bootc-fast.catalog").read_text()
    assert set(re.findall(r"^-- ([0-9a-f]{32})$", text, re.MULTILINE)) == ids


def test_message_catalog_is_accepted_by_journalctl(tmp_path: Path) -> None:
    catalog = tmp_path / "usr/lib/systemd/catalog"
    catalog.mkdir(parents=True)
    shutil.copy(UNITS.parent / "bootc-fast.catalog", catalog)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    argv = ["journalctl", f"--root={tmp_path}", "--update-catalog"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    listing = ["journalctl", f"--root={tmp_path}", "--list-catalog"]
    shown = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    assert message_ids.FINALIZE_FAILED in shown


@pytest.mark.parametrize(
    ("is_composefs", "is_enabled", "runs"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_systemd_bless_boot_stands_aside_where_ours_blesses(
    root: Path, tmp_path: Path, *, is_composefs: bool, is_enabled: bool, runs: bool
) -> None:
    units = root / "usr/lib/systemd/system"
    unit = units / "systemd-bless-boot.service"
    unit.write_text("[Service]\nType=oneshot\nExecStart=/usr/lib/systemd/systemd-bless-boot good\n")
    program = root / "usr/lib/systemd/systemd-bless-boot"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    shell = root / "bin/sh"
    shell.parent.mkdir(exist_ok=True)
    shutil.copy(program, shell)
    done = _verify(root, unit.name)
    assert (done.returncode, done.stderr) == (0, "")
    # The drop-in's command itself, with another root and somebody else's answer.
    text = (UNITS / "systemd-bless-boot.service.d/50-bootc-fast.conf").read_text()
    condition = re.search(r"^ExecCondition=/bin/sh -c '(.*)'$", text, re.MULTILINE)
    assert condition is not None
    script = (
        condition[1]
        .replace("$$", "$")
        .replace("/sysroot/", f"{tmp_path}/sysroot/")
        .replace("/run/", f"{tmp_path}/run/")
    )
    if is_composefs:
        (tmp_path / "sysroot/composefs").mkdir(parents=True)
    answer = tmp_path / "answers/systemctl"
    answer.parent.mkdir()
    wants = "multi-user.target" if is_enabled else ""
    answer.write_text(f'#!/bin/sh\n[ "$4" = bootc-fast-boot-complete.service ] && echo "{wants}"\n')
    answer.chmod(0o755)
    found = subprocess.run(["/bin/sh", "-c", script], check=False, env={"PATH": f"{answer.parent}:/usr/bin:/bin"})
    assert (found.returncode == 0) is runs


def test_selinux_policy_compiles_and_labels_the_command_alone(tmp_path: Path) -> None:
    """The commands of docs/selinux.md, as far as no policy of a system is needed."""
    source = UNITS.parent / "selinux"
    lines = re.findall(
        r"^(?:checkmodule|semodule_package) .*$", (UNITS.parents[1] / "docs/selinux.md").read_text(), re.MULTILINE
    )
    assert len(lines) == 2
    for name in ("bootc-fast.te", "bootc-fast.fc"):
        shutil.copy(source / name, tmp_path)
    subprocess.run(["bash", "-euc", "\n".join(lines)], check=True, cwd=tmp_path, capture_output=True)
    package = (tmp_path / "bootc-fast.pp").read_bytes()
    assert (source / "bootc-fast.fc").read_bytes() in package
    assert (source / "bootc-fast.fc").read_text().split("\t")[0] == "/usr/bin/bootc-fast"
    broken = (source / "bootc-fast.te").read_text().replace("type install_exec_t", "typo install_exec_t")
    (tmp_path / "bootc-fast.te").write_text(broken)
    assert subprocess.run(["bash", "-euc", lines[0]], check=False, cwd=tmp_path, capture_output=True).returncode != 0
