"""What bootc's newer versions ask for and write: their unit's option, boot types, digests and keys of entries."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

BLS = [one for one in flowkit.COMBINATIONS if one[1] is BootType.BLS]


def _entries(case: flowkit.Case) -> list[Path]:
    return sorted((case.host.boot_dir / "loader").rglob("*.conf"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("has_host", [True, False])
def test_hold_keeps_the_boot_partitions_open_until_it_is_told_and_writes_nothing(
    tmp_path: Path, number: signal.Signals, *, has_host: bool
) -> None:
    """What is open is not expired by its automount; a host may have none of the places."""
    root = tmp_path / "h"
    if has_host:
        flowkit.make_case(root)
    else:
        root.mkdir()
    before = flowkit.snapshot(root)
    argv = [sys.executable, "-m", "bootc_fast", "composefs-finalize-staged", "--hold", "--root", os.fspath(root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wanted = {os.path.realpath(root / "boot"), os.path.realpath(root / "efi")} if has_host else set()
        end = time.monotonic() + 60
        while not _waits_for_a_signal(process.pid):
            assert time.monotonic() < end, "it has not begun to wait"
            time.sleep(0.02)
        assert _held(process.pid) >= wanted
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert flowkit.snapshot(root) == before


def _held(pid: int) -> set[str]:
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def _waits_for_a_signal(pid: int) -> bool:
    """Say whether it sleeps in sigwait(3); while it does, the kernel shows its signals as not blocked."""
    with open(f"/proc/{pid}/wchan") as file:
        return "sigtimedwait" in file.read()


def _set_boot_type(case: flowkit.Case, digest: str, kind: str) -> None:
    path = case.host.state_dir(digest) / f"{digest}.origin"
    path.write_text(re.sub(r"boot_type = \w+", f"boot_type = {kind}", path.read_text()))


@pytest.mark.parametrize("which", ["booted", "staged"])
def test_an_android_boot_image_is_said_to_be_not_handled_and_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _set_boot_type(case, getattr(case, which), "aboot")
    code, out, _ = flowkit.run(capsys, "status", "--root", case.root)
    assert (code, "not handled: aboot" in out, "(broken)" in out) == (0, True, False)
    assert "will NOT be applied" in out

    def refuse() -> None:
        for verb in (("finalize", "--dry-run"), ("finalize",), ("finalize", "--no-verify")):
            code, _, err = flowkit.run(capsys, *verb, "--root", case.root)
            assert (code, "is not handled: aboot" in err, "hint: " in err) == (7, True, True), err
        assert flowkit.run(capsys, "status", "--json", "--root", case.root)[0] == 0

    flowkit.assert_unchanged_by(case, refuse)


def test_a_rollback_to_an_android_boot_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    lab.boot(case.host)
    _set_boot_type(case, case.booted, "aboot")

    def refuse() -> None:
        code, _, err = flowkit.run(capsys, "rollback", "--root", case.root)
        assert (code, "is not handled: aboot" in err) == (7, True)

    flowkit.assert_unchanged_by(case, refuse)


def _add_image(case: flowkit.Case, digest: str) -> Path:
    """An image without a deployment: the same tree in another format of EROFS."""
    content = case.host.repository / "objects" / digest[:2] / digest[2:]
    content.parent.mkdir(exist_ok=True)
    content.write_bytes(b"the same tree, in another format")
    link = case.host.repository / "images" / digest
    link.symlink_to(f"../objects/{digest[:2]}/{digest[2:]}")
    return link


@pytest.mark.parametrize(("loader", "boot_type"), BLS)
@pytest.mark.parametrize("form", ["composefs=", "composefs.digest=v2-sha512-12:"])
@pytest.mark.parametrize("has_mounts", [True, False])
def test_of_two_digests_that_of_the_image_with_state_is_the_deployment(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loader: Loader,
    boot_type: BootType,
    form: str,
    *,
    has_mounts: bool,
) -> None:
    """Taken for the other image's, the booted deployment's entry was dropped."""
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    twins = {case.booted: "1" * 128, case.staged: "2" * 128}
    links = [_add_image(case, digest) for digest in twins.values()]

    def name_both(path: Path) -> None:
        text = path.read_text()
        for digest, twin in twins.items():
            text = text.replace(f"composefs={digest}", f"composefs.digest=v1-sha512-12:{twin} {form}{digest}")
        path.write_text(text)

    for path in (*_entries(case), case.root / "proc/cmdline"):
        name_both(path)
    if not has_mounts:
        (case.root / "proc/self/mountinfo").unlink()
    assert flowkit.finalize(capsys, case)[0] == 0
    texts = [path.read_text() for path in _entries(case)]
    # Both stay bootable, with both digests; both images stay too.
    for digest, twin in twins.items():
        assert sum(f"{twin} {form}{digest}" in text for text in texts) == 1
    assert all(link.is_file() for link in links)
    directories = {match for text in texts for match in re.findall(r"bootc_composefs-([0-9a-f]{128})/vmlinuz", text)}
    area, _ = case.host.kernel_area()
    assert all((area / f"bootc_composefs-{name}/vmlinuz").is_file() for name in directories)
    code, out, err = flowkit.run(capsys, "rollback", "--to", case.booted, "--root", case.root)
    assert (code, err) == (0, "")
    assert "(broken)" not in flowkit.run(capsys, "status", "--root", case.root)[1], out


@pytest.mark.parametrize(("loader", "boot_type"), BLS)
def test_an_update_of_another_os_and_the_way_back_keep_ids_and_foreign_keys_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    ids = {case.booted: b"fedora-coreos", case.staged: b"centos"}
    extra = {
        case.booted: b'x-options-source-a.d\t a=1  b="two words" \nX-Options-Source-B x\nx-options-source-\xff y\n',
        case.staged: b"x-options-source-kargs quiet\r\nmachine-id 0123\nx-options-source-kargs second\n",
    }
    before = {}
    for path in _entries(case):
        raw = path.read_bytes()
        digest = next(digest for digest in ids if digest.encode() in raw.partition(b"composefs=")[2])
        raw = raw.replace(b"bootc-lab-", b"bootc-" + ids[digest] + b"-") + extra[digest]
        path.write_bytes(raw)
        before[digest] = _without_key(raw)

    def check() -> None:
        for path in _entries(case):
            raw = path.read_bytes()
            digest = next(digest for digest in ids if digest.encode() in raw.partition(b"composefs=")[2])
            assert _without_key(raw) == before[digest]
            key = next(line for line in raw.splitlines() if line.startswith(b"sort-key "))
            assert re.fullmatch(rb"sort-key \S*bootc-\S*\b" + re.escape(ids[digest]) + rb"(-[01])?", key), key

    assert flowkit.finalize(capsys, case)[0] == 0
    check()
    lab.boot(case.host)
    for target in (case.booted, case.staged, case.booted):
        assert flowkit.run(capsys, "rollback", "--root", case.root, "--to", target)[0] == 0
        assert flowkit.next_boot(case.host) == target
        check()


def _without_key(raw: bytes) -> list[bytes]:
    return [line for line in raw.splitlines(keepends=True) if not line.startswith(b"sort-key")]


# What bootc 1.16 and 1.17 print of a composefs host, and nothing else (``spec.rs``, ``bootc_composefs/status.rs``).
_HOST_KEYS = {"apiVersion", "kind", "metadata", "spec", "status"}
_STATUS_KEYS = {"staged", "booted", "rollback", "rollbackQueued", "readOnly", "type", "usrOverlay"}
_ENTRY_KEYS = {
    "image", "cachedUpdate", "incompatible", "pinned", "softRebootCapable", "downloadOnly", "store", "ostree",
    "composefs",
}  # fmt: skip
_COMPOSEFS_KEYS = {"verity", "bootType", "bootloader", "bootDigest", "missingVerityAllowed"}
_IMAGE_KEYS = {"image", "version", "timestamp", "imageDigest", "architecture"}


def _document(capsys: pytest.CaptureFixture[str], case: flowkit.Case, *options: str) -> dict[str, Any]:
    code, out, err = flowkit.run(capsys, "status", "--json", "--root", case.root, *options)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def _check_entry(entry: dict[str, Any] | None) -> None:
    assert entry is not None
    assert entry.keys() - {"bootcFast"} == _ENTRY_KEYS
    assert (entry["cachedUpdate"], entry["incompatible"], entry["pinned"]) == (None, False, False)
    assert (entry["store"], entry["ostree"]) == (None, None)
    assert entry["composefs"].keys() == _COMPOSEFS_KEYS
    assert entry["image"].keys() == _IMAGE_KEYS
    assert entry["image"]["image"].keys() == {"image", "transport"}


@pytest.mark.parametrize(("loader", "boot_type"), flowkit.COMBINATIONS)
def test_status_has_the_fields_of_bootcs_and_only_deployments_with_an_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    found = _document(capsys, case)
    assert found.keys() - {"bootcFast"} == _HOST_KEYS
    assert found["status"].keys() == _STATUS_KEYS
    assert (found["metadata"], found["spec"].keys()) == ({"name": "host"}, {"image", "bootOrder"})
    assert (found["status"]["type"], found["status"]["usrOverlay"], found["status"]["rollback"]) == (None, None, None)
    _check_entry(found["status"]["booted"])
    _check_entry(found["status"]["staged"])
    assert found["spec"]["image"] == found["status"]["staged"]["image"]["image"]
    for number in (3, 4):
        assert flowkit.finalize(capsys, case)[0] == 0
        lab.boot(case.host)
        lab.stage_files(case.host, {**flowkit.NEW, "n": f"{number}\n"}, version=str(number))
    found = _document(capsys, case)
    # The first deployment is kept, without an entry: bootc does not know it.
    assert "otherDeployments" not in found["status"]
    assert [one["composefs"]["verity"] for one in found["bootcFast"]["kept"]] == [case.booted]
    _check_entry(found["status"]["rollback"])
    assert found["status"]["rollback"]["composefs"]["verity"] == case.staged


def test_a_queued_rollback_is_bootcs_boot_order_and_booted_only_drops_what_bootc_drops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert flowkit.finalize(capsys, case)[0] == 0
    lab.boot(case.host)
    assert flowkit.run(capsys, "rollback", "--root", case.root)[0] == 0
    found = _document(capsys, case)
    assert (found["spec"]["bootOrder"], found["status"]["rollbackQueued"]) == ("rollback", True)
    found = _document(capsys, case, "--booted")
    assert found["status"].keys() == _STATUS_KEYS
    assert (found["status"]["staged"], found["status"]["rollback"]) == (None, None)
    assert found["status"]["booted"]["composefs"]["verity"] == case.staged
