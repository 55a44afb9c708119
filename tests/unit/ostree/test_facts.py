"""What status tells of an ostree host besides its deployments: /etc, what is staged, what bootc has cached."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import flowkit
import pytest
from ostree_hosts import REFERENCE, document, make_host, manifest_digest, rollback

if TYPE_CHECKING:
    from pathlib import Path

    from ostree_hosts import OstreeHost


@pytest.fixture
def host(tmp_path: Path) -> OstreeHost:
    return make_host(tmp_path, 1, 2, 3)


def test_changes_of_etc_that_the_target_lacks_are_counted_as_on_composefs_hosts(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    etc = host.deployment(3) / "etc"
    assert "local change" not in rollback(capsys, host, "--dry-run")[1]
    (etc / "mine").write_text("written since the update")
    (etc / "conf").write_text("changed")
    out = rollback(capsys, host, "--dry-run")[1]
    hint = re.search(
        r"2 local changes in /etc of the booted deployment .* \(`bootc-fast rollback (.*)` lists them\)", out
    )
    assert hint
    listed = rollback(capsys, host, *hint[1].split())[1]
    assert re.findall(r"^ +([AMD] /etc/\S+)", listed, re.MULTILINE) == ["M /etc/conf", "A /etc/mine"]
    assert json.loads(rollback(capsys, host, "--dry-run", "--json")[1])["etc_changes_missing"] == 2
    text = flowkit.run(capsys, "status", "--root", host.root, "-v")[1]
    assert "lacks 2 local changes of the running /etc" in text
    # What the target has as well is not missing there.
    (host.deployment(2) / "etc/mine").write_text("written since the update")
    (etc / "conf").unlink()
    assert (
        "  1 local change in /etc of the booted deployment is not in this one" in rollback(capsys, host, "--dry-run")[1]
    )
    # Going back to what runs changes nothing in what runs.
    assert rollback(capsys, host)[0] == 0
    assert "local change" not in rollback(capsys, host)[1]


def test_an_etc_that_cannot_be_compared_stops_no_rollback(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    (host.deployment(2) / "etc").rename(host.deployment(2) / "elsewhere")
    text = flowkit.run(capsys, "status", "--root", host.root, "-v")[1]
    assert "warning: /etc was not compared: " in text
    code, out, err = rollback(capsys, host)
    assert (code, "Next boot: rollback deployment" in out, "/etc was not compared" in err) == (0, True, True)


def test_a_transient_etc_is_not_compared(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    (host.deployment(3) / "etc/mine").touch()
    mountinfo = host.root / "proc/self/mountinfo"
    mountinfo.parent.mkdir()
    mountinfo.write_text("30 1 0:30 / /etc rw - tmpfs tmpfs rw\n")
    assert "local change" not in rollback(capsys, host, "--dry-run")[1]


@pytest.mark.parametrize("how", ["file", "metadata"])
def test_a_locked_staged_deployment_stays_unapplied_whichever_way_it_was_locked(
    host: OstreeHost, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    host.commit(4)
    host.stage(4, is_locked=how == "metadata")
    if how == "file":
        (host.root / "run/ostree/staged-deployment-locked").touch()
    found = document(capsys, host)
    assert found["status"]["staged"]["downloadOnly"] is True
    verdict = found["bootcFast"]["stagedUpdate"]
    assert verdict["willBeApplied"] is False
    assert verdict["reasons"][0].startswith("finalization is locked (download-only)")


def test_what_bootc_has_looked_up_last_is_the_cached_update(
    host: OstreeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    from gi.repository import Gio, GLib

    from bootc_fast.ostree.libostree import load_libostree

    ostree, _, _ = load_libostree()
    config = {
        "architecture": "arm64",
        "created": "2026-02-01T01:00:00.5+01:00",
        "config": {"Labels": {"org.opencontainers.image.version": "4.0"}},
    }
    texts = {
        "ostree-ext.cached.manifest-digest": manifest_digest(4),
        "ostree-ext.cached.manifest": "{}",
        "ostree-ext.cached.config": json.dumps(config),
    }
    metadata = GLib.Variant("a{sv}", {key: GLib.Variant("s", text) for key, text in texts.items()})
    repo = ostree.Repo.new(Gio.File.new_for_path(str(host.sysroot / "ostree/repo")))
    repo.open(None)
    repo.write_commit_detached_metadata(host.find_commit(3), metadata, None)
    status = document(capsys, host)["status"]
    assert status["booted"]["cachedUpdate"] == {
        "image": {"image": "registry.example/example/os:3", "transport": "registry"},
        "imageDigest": manifest_digest(4),
        "version": "4.0",
        "timestamp": "2026-02-01T00:00:00.500000Z",
        "architecture": "arm64",
    }
    assert status["rollback"]["cachedUpdate"] is None


def test_the_image_s_own_configuration_wins_over_the_commit_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(tmp_path, 1)
    label = {"config": {"Labels": {"org.opencontainers.image.created": "2026-03-01T00:00:00Z", "version": "9"}}}
    for number, config in (
        (2, {"architecture": "s390x", "created": "2026-04-01T00:00:00Z", **label}),
        (3, {"created": "yesterday", "config": {"Labels": ["no object"]}}),
    ):
        host.commit(number, metadata={"ostree.container.image-config": json.dumps(config)})
        host.deploy(number)
    host.boot()
    status = document(capsys, host)["status"]
    image = status["rollback"]["image"]
    assert (image["version"], image["timestamp"], image["architecture"]) == ("9", "2026-03-01T00:00:00Z", "s390x")
    image = status["booted"]["image"]
    assert (image["version"], image["timestamp"]) == ("3.1", "2026-01-03T00:00:00Z")


@pytest.mark.parametrize("group", ["rpmostree", "packages", "overrides", "modules"])
def test_a_deployment_with_packages_of_its_own_is_incompatible_and_no_image(
    host: OstreeHost, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    origin = host.sysroot / f"ostree/deploy/default/deploy/{host.find_commit(3)}.0.origin"
    origin.write_text(f"{origin.read_text()}\n[{group}]\nrequested=vim;\n")
    found = document(capsys, host)
    assert found["status"]["booted"]["incompatible"] is True
    assert found["status"]["booted"]["image"] is None
    assert found["status"]["rollback"]["image"]["image"]["image"] == REFERENCE.format(2).partition(":")[2]
    # bootc takes a host for its own by what is booted.
    assert (found["status"]["type"], found["spec"]) == (None, {"image": None, "bootOrder": "default"})


def test_how_the_last_finalize_failed_is_a_warning(host: OstreeHost, capsys: pytest.CaptureFixture[str]) -> None:
    (host.sysroot / "boot/ostree/finalize-failure.stamp").write_text("error: Finalizing deployment: No space left\n")
    expected = "the last ostree-finalize-staged.service failed: error: Finalizing deployment: No space left"
    assert document(capsys, host)["bootcFast"]["warnings"] == [expected]
