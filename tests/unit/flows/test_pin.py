"""pin.py: a pinned deployment outlives every update; and the names that deployments go by."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import flowkit
import ostree_hosts
import pytest
import trio
from flowkit import COMBINATIONS, NEW, Case

from bootc_fast import events, finalize_staged, get_status, lab, pin, rollback, unpin, unstage
from bootc_fast.errors import BootEntryError, InvalidStateError, NotBootcHostError, UsageError
from bootc_fast.flows.naming import Named, find_named, find_tag
from bootc_fast.types import BootType, Loader, VerityDigest

if TYPE_CHECKING:
    from pathlib import Path


def _pins_file(case: Case) -> Path:
    return case.root / "sysroot/state/bootc-fast/boot.toml"


async def _update(case: Case, number: int) -> str:
    staged = lab.stage_files(case.host, {**NEW, f"update-{number}": str(number)})
    await finalize_staged(case.root)
    lab.boot(case.host)
    return staged


@pytest.mark.parametrize(("loader", "boot_type"), COMBINATIONS[1:4])
async def test_a_pinned_deployment_outlives_updates_at_the_end_of_the_order(
    tmp_path: Path, loader: Loader, boot_type: BootType
) -> None:
    case = flowkit.make_case(tmp_path / "h", loader, boot_type)
    assert (await pin(case.root)).deployment == case.booted
    await finalize_staged(case.root)
    lab.boot(case.host)
    runs, before = case.staged, case.staged
    for number in range(2):
        before, runs = runs, await _update(case, number)
    status = await get_status(case.root)
    assert [one.digest for one in (status.booted, status.rollback, *status.others) if one and one.entry_name] == [
        runs,
        before,
        case.booted,
    ]
    assert [one.digest for one in (status.booted, status.rollback, *status.others) if one and one.is_pinned] == [
        case.booted
    ]
    outcome = await rollback(case.root, to=case.booted)
    assert outcome.next_boot == case.booted
    # Unpinned it goes at the next update.
    assert (await unpin(case.root, case.booted[:12])).is_changed
    await rollback(case.root, to="booted")
    await _update(case, 9)
    kept = await get_status(case.root)
    assert case.booted not in [one.digest for one in (kept.rollback, *kept.others) if one and one.entry_name]


async def test_pinning_twice_and_unpinning_twice_change_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    assert [(await pin(case.root, "booted")).is_changed for _ in range(2)] == [True, False]
    text = _pins_file(case).read_text()
    assert text.splitlines()[1] == f'pinned = ["{case.booted}"]'
    assert [(await unpin(case.root, "booted")).is_changed for _ in range(2)] == [True, False]


async def test_what_is_staged_can_be_pinned_and_then_keeps_its_files(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await pin(case.root, case.staged[:8])
    outcome = await unstage(case.root)
    assert "it is pinned" in outcome.kept[0]
    assert case.host.state_dir(case.staged).exists()
    # Without an entry nothing keeps it from bootc's garbage collection, so that it cannot be pinned now.
    await unpin(case.root, case.staged)
    with pytest.raises(BootEntryError, match="it has no boot entry"):
        await pin(case.root, case.staged)


async def test_what_a_policy_file_pins_is_unpinned_there(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    (case.root / "etc/bootc-fast").mkdir()
    (case.root / "etc/bootc-fast/boot.toml").write_text(f'pinned = ["{case.booted}"]\n')
    with pytest.raises(UsageError, match="a policy file pins it") as caught:
        await unpin(case.root, "booted")
    assert "boot.toml" in (caught.value.hint or "")
    assert (await pin(case.root, "booted")).is_changed
    assert (await get_status(case.root)).booted.is_pinned


async def test_a_pin_of_what_is_gone_can_be_undone(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    gone = "ab" * 64
    await pin(case.root)
    _pins_file(case).write_text(f'pinned = ["{gone}", "{case.booted}"]\n')
    assert (await unpin(case.root, gone[:10])).deployment == gone
    assert _pins_file(case).read_text().count("pinned") == 1
    assert case.booted in _pins_file(case).read_text()


@pytest.mark.parametrize("text", ["pinned = 3", "pinned = ['../../x']", "keep = \x00", "other = 1", "\ufeff["])
async def test_pins_that_cannot_be_read_are_kept_as_they_are_and_told(tmp_path: Path, text: str) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _pins_file(case).parent.mkdir(parents=True, exist_ok=True)
    _pins_file(case).write_text(text)
    for function in (pin, unpin):
        with pytest.raises(InvalidStateError, match=r"boot\.toml"):
            await function(case.root, "booted")
    assert _pins_file(case).read_text() == text
    told = [warning for warning in (await get_status(case.root)).warnings if "boot.toml" in warning]
    assert "passed over" in told[0]


async def test_no_more_are_pinned_than_file_names_have_ranks(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    _pins_file(case).parent.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{number:064x}"' for number in range(50))
    _pins_file(case).write_text(f"pinned = [{names}]\n")
    with pytest.raises(InvalidStateError, match="50 deployments are pinned already"):
        await pin(case.root)


async def test_a_cancellation_before_the_write_pins_nothing(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    with trio.CancelScope() as scope:

        def cancel(event: events.Event) -> None:
            if isinstance(event, events.StepDone) and event.step == "look":
                scope.cancel()

        await pin(case.root, on_event=cancel)
    assert scope.cancelled_caught
    assert not _pins_file(case).exists()


async def test_an_ostree_host_says_what_there_is_instead(tmp_path: Path) -> None:
    host = ostree_hosts.make_host(tmp_path, 1, 2)
    for function in (pin, unpin):
        with pytest.raises(NotBootcHostError) as caught:
            await function(host.root, "booted")
        assert "ostree admin pin" in (caught.value.hint or "")


def test_the_commands_say_what_they_did_and_status_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = flowkit.make_case(tmp_path / "h")
    short = f"Deployment {case.booted[:16]}…"
    assert flowkit.run(capsys, "pin", "booted", "--root", case.root) == (0, f"{short}: pinned\n", "")
    assert f"{case.booted[:16]}…, pinned" in flowkit.run(capsys, "status", "--root", case.root)[1]
    document = json.loads(flowkit.run(capsys, "status", "--json", "--root", case.root)[1])
    assert (document["status"]["booted"]["pinned"], document["status"]["staged"]["pinned"]) == (True, False)
    code, out, _err = flowkit.run(capsys, "unpin", case.booted, "--json", "--root", case.root)
    assert (code, json.loads(out)["is_pinned"]) == (0, False)
    code, _out, err = flowkit.run(capsys, "pin", "nothing", "--root", case.root)
    assert (code, err.splitlines()[0]) == (2, "error: pinning: there is no deployment nothing")


ONE, TWO = VerityDigest("a1" * 32), VerityDigest("a1a1a1a1b2" * 6 + "a1a1")
CANDIDATES = [Named(ONE, frozenset({"43.1", "latest"})), Named(TWO, frozenset({"42.9", "latest", "a1a1a1a1"}))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ONE, ONE),
        (ONE.upper(), ONE),
        (ONE[:9], ONE),
        ("43.1", ONE),
        ("42.9", TWO),
        ("43", None),
        ("a1a1", None),
        ("", None),
    ],
)
def test_deployments_go_by_digest_version_and_tag(text: str, found: VerityDigest | None) -> None:
    assert find_named(text, CANDIDATES, doing="x") == found


@pytest.mark.parametrize("text", ["latest", "a1a1a1a1"])
def test_a_name_of_several_is_refused_and_names_them(text: str) -> None:
    with pytest.raises(UsageError, match="2 deployments") as caught:
        find_named(text, CANDIDATES, doing="x")
    assert (caught.value.hint or "").count("…") == 2


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ("ostree-unverified-image:docker://registry.example:5000/os/base:43", "43"),
        ("ostree-unverified-registry:registry.example:5000/os", None),
        ("ostree-unverified-image:docker://registry.example/os:43@sha256:" + "0" * 64, "43"),
        ("ostree-unverified-image:docker://registry.example/os@sha256:" + "0" * 64, None),
        ("nonsense", None),
    ],
)
def test_the_tag_of_a_reference(reference: str, tag: str | None) -> None:
    assert find_tag(reference) == tag


async def test_a_rollback_goes_to_a_version_or_tag_that_one_deployment_has(tmp_path: Path) -> None:
    case = flowkit.make_case(tmp_path / "h")
    await finalize_staged(case.root)
    lab.boot(case.host)
    status = await get_status(case.root)
    assert status.rollback is not None
    assert status.rollback.image is not None
    version, tag = (
        status.rollback.facts.version or status.rollback.version,
        find_tag(status.rollback.deployment.origin.image_reference or "" if status.rollback.deployment.origin else ""),
    )
    assert version is not None
    assert (await rollback(case.root, to=version)).next_boot == case.booted
    if tag is not None:
        with pytest.raises(UsageError, match="2 deployments have the version or tag"):
            await rollback(case.root, to=tag)
    with pytest.raises(UsageError, match="there is no deployment 99"):
        await rollback(case.root, to="99")
