"""ostree.py and the flows on ostree hosts: sysroots of `ostree admin`, judged by `ostree admin status`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import flowkit
import ostree_hosts
import pytest
from ostree_hosts import REFERENCE, document, make_host, manifest_digest, rollback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostree_hosts import OstreeHost


@pytest.fixture
def host(tmp_path: Path) -> OstreeHost:
    return make_host(tmp_path, 1, 2, 3)


def test_rollback_and_revert_swap_the_first_two_and_keep_a_pinned_third(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.admin("pin", "2")
    assert host.order() == ["3", "2", "1"]
    code, out, err = rollback(capsys, host)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Next boot: rollback deployment",
        f"  Image: {REFERENCE.format(2)}",
        f"  Digest: {manifest_digest(2)[:23]}…",
        f"  Commit: {host.find_commit(2)[:16]}….0",
    ]
    assert host.order() == host.entries() == ["2", "3", "1"]
    assert "Pinned: yes" in host.admin("status")
    assert (host.root / "run/reboot-required").read_text() == f"bootc: Reboot required for image: {manifest_digest(2)}"
    code, out, err = rollback(capsys, host)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["notice: Reverting queued rollback state", "Next boot: current deployment"]
    assert host.order() == host.entries() == ["3", "2", "1"]
    assert "Pinned: yes" in host.admin("status")
    assert not (host.root / "run/reboot-required").exists()


def test_after_booting_what_was_rolled_back_to_the_next_rollback_leads_forward(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback(capsys, host)[0] == 0
    host.boot()
    assert document(capsys, host)["status"]["booted"]["image"]["version"] == "2.1"
    assert rollback(capsys, host)[0] == 0
    assert host.order() == ["3", "2", "1"]


def test_two_deployments_swap_back_and_forth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = make_host(tmp_path, 1, 2)
    for expected in (["1", "2"], ["2", "1"], ["1", "2"]):
        assert rollback(capsys, host)[0] == 0
        assert host.order() == host.entries() == expected


def test_another_stateroot_is_no_target_and_stays_where_it_is(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.admin("os-init", "other")
    host.commit(9)
    host.deploy(9, stateroot="other")
    assert host.order() == ["9", "3", "2", "1"]
    # What runs is told by the mount now: the host has not booted since.
    assert rollback(capsys, host)[0] == 0
    assert host.order() == ["2", "3", "9", "1"]
    # As bootc has them: those of the booted stateroot first.
    assert [one["ostree"]["stateroot"] for one in document(capsys, host)["status"]["otherDeployments"]] == [
        "default",
        "other",
    ]
    code, _, err = rollback(capsys, host, "--to", host.find_commit(9))
    assert (code, "belongs to stateroot other" in err) == (2, True)


def test_naming_the_target_is_idempotent_and_finds_it_by_its_commit(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    for to, expected in (
        (host.find_commit(1)[:12], ["1", "3", "2"]),
        (host.find_commit(1) + ".0", ["1", "3", "2"]),
        ("booted", ["3", "1", "2"]),
        ("previous", ["1", "3", "2"]),
        ("previous", ["1", "3", "2"]),
    ):
        assert rollback(capsys, host, "--to", to)[0] == 0
        assert host.order() == expected
    assert rollback(capsys, host, "--to", "0123456789")[0] == 2


def test_a_staged_deployment_is_shown_and_then_dropped(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.commit(4)
    commit = host.stage(4)
    found = document(capsys, host)
    assert found["status"]["staged"]["ostree"] == {"stateroot": "default", "checksum": commit, "deploySerial": 1}
    assert found["bootcFast"]["stagedUpdate"]["willBeApplied"] is None
    (host.root / "run/ostree/staged-deployment-locked").touch()
    found = document(capsys, host)
    assert found["status"]["staged"]["downloadOnly"] is True
    assert found["bootcFast"]["stagedUpdate"]["willBeApplied"] is False
    assert f"{commit[:16]}… would be dropped" in rollback(capsys, host, "--dry-run")[1]
    assert host.staged_file.exists()
    assert f"{commit[:16]}… was dropped" in rollback(capsys, host)[1]
    assert not host.staged_file.exists()
    assert host.order() == ["2", "3", "1"]


def test_a_dry_run_writes_nothing(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    before = flowkit.snapshot(host.root)
    code, out, _ = rollback(capsys, host, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "Would be next boot: rollback deployment")
    assert flowkit.snapshot(host.root) == before


def test_a_deployment_that_is_no_container_is_refused_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(tmp_path, 1, 2, plain=(1,))
    code, _, err = rollback(capsys, host)
    assert (code, "did not come from a container image" in err, "--allow-non-container" in err) == (4, True, True)
    assert host.order() == ["2", "1"]
    entry = document(capsys, host)["status"]["rollback"]
    assert (entry["image"], entry["store"], entry["ostree"]["checksum"]) == (
        None,
        "ostreeContainer",
        host.find_commit(1),
    )
    code, out, _ = rollback(capsys, host, "--allow-non-container")
    assert (code, "  Image: unknown" in out.splitlines()) == (0, True)
    assert host.order() == ["1", "2"]
    # The booted one needs no permission to come back.
    assert rollback(capsys, host)[0] == 0
    assert host.order() == ["2", "1"]


def test_allowing_what_is_no_container_is_an_error_on_a_composefs_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = flowkit.make_case(tmp_path / "h")
    code, _, err = flowkit.run(capsys, "rollback", "--root", case.root, "--allow-non-container")
    assert (code, "--allow-non-container is for ostree hosts" in err) == (2, True)


def test_status_tells_every_deployment_and_writes_nothing(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.admin("pin", "1")
    before = flowkit.snapshot(host.root)
    found = document(capsys, host)
    code, text, _ = flowkit.run(capsys, "status", "--root", host.root)
    assert flowkit.snapshot(host.root) == before
    status = found["status"]
    assert status["booted"]["image"] == {
        "image": {"image": "registry.example/example/os:3", "transport": "registry"},
        "imageDigest": manifest_digest(3),
        "version": "3.1",
        "timestamp": "2026-01-03T00:00:00Z",
        "architecture": status["booted"]["image"]["architecture"],
    }
    assert status["booted"]["ostree"] == {
        "stateroot": "default",
        "checksum": host.find_commit(3),
        "deploySerial": 0,
    }
    assert (status["booted"]["composefs"], status["booted"]["store"]) == (None, "ostreeContainer")
    assert [status[name]["pinned"] for name in ("booted", "rollback")] == [False, True]
    assert found["bootcFast"]["nextBoot"]["ostree"] == f"{host.find_commit(3)}.0"
    assert code == 0
    assert f"Commit:      {host.find_commit(2)[:16]}….0 in stateroot default, pinned" in text
    assert "Next boot: the booted deployment" in text
    assert rollback(capsys, host)[0] == 0
    found = document(capsys, host)
    assert (found["status"]["rollbackQueued"], found["spec"]["bootOrder"]) == (True, "rollback")


def test_a_commit_that_cannot_be_read_is_a_problem_of_its_deployment_only(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = host.find_commit(1)
    (host.sysroot / f"ostree/repo/objects/{commit[:2]}/{commit[2:]}.commit").unlink()
    found = document(capsys, host)
    assert found["status"]["booted"]["bootcFast"]["problems"] == []
    (problem,) = found["status"]["otherDeployments"][0]["bootcFast"]["problems"]
    assert problem.startswith("its commit cannot be read: ")


def test_with_one_kernel_for_all_the_mount_at_the_root_tells_what_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(tmp_path, 1, 2, kernel=7)
    code, _, err = rollback(capsys, host)
    assert (code, "2 deployments have the kernel" in err) == (10, True)
    host.run_from_mount(2)
    for expected in (["1", "2"], ["2", "1"]):
        assert rollback(capsys, host)[0] == 0
        assert host.order() == expected


def test_the_journal_gets_commits_and_manifest_digests(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    path = host.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(5)
        journal.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
        assert rollback(capsys, host)[0] == 0
        data = journal.recv(1 << 16)
    wanted: Mapping[str, str] = {
        "MESSAGE_ID": "26f3b1eb24464d12aa5e7b544a6b5468",
        "BOOTC_ROLLBACK_TYPE": "rollback",
        "BOOTC_MANIFEST_DIGEST": manifest_digest(2),
        "BOOTC_CURRENT_MANIFEST_DIGEST": manifest_digest(3),
        "BOOTC_OSTREE_COMMIT": host.find_commit(2),
        "BOOTC_FAST_BOOTED": f"{host.find_commit(3)}.0",
    }
    for name, value in wanted.items():
        length = len(value).to_bytes(8, "little")
        assert name.encode() + b"\n" + length + value.encode() + b"\n" in data


def test_a_host_without_an_ostree_repository_is_none_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/ostree-booted").touch()
    host = ostree_hosts.OstreeHost(tmp_path)
    assert rollback(capsys, host)[0] == 3
