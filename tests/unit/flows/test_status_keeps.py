"""status judges a staged update by the policy of boot.toml that its finalize follows, and warns of the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import flowkit
import pytest

from bootc_fast import lab
from bootc_fast.boot.entries import plan
from bootc_fast.types import BootType, Loader

if TYPE_CHECKING:
    from pathlib import Path

POLICY = "etc/bootc-fast/boot.toml"


def _write_policy(host: lab.LabHost, text: str) -> None:
    path = host.root / POLICY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> lab.LabHost:
    """Make a host with four deployments in the menu and a fifth staged."""
    made = lab.make_host(tmp_path / "h", loader=Loader.SYSTEMD_BOOT, boot_type=BootType.BLS)
    _write_policy(made, "keep = 4\n")
    for version in (2, 3, 4):
        lab.stage_files(made, {"motd": f"v{version}\n"}, version=str(version))
        assert flowkit.run(capsys, "finalize", "--root", made.root)[0] == 0
        lab.boot(made)
    lab.stage_files(made, {"motd": "v5\n"}, version="5")
    return made


def _of_status(capsys: pytest.CaptureFixture[str], host: lab.LabHost) -> list[str]:
    document = json.loads(flowkit.run(capsys, "status", "--json", "--root", host.root)[1])
    assert document["bootcFast"]["stagedUpdate"]["reasons"] == ["units are not looked at under --root"]
    return [str(one) for one in document["bootcFast"]["warnings"]]


@pytest.mark.parametrize(
    ("policy", "words"),
    [("keep = 4\n", []), ("keep = 5\n", []), ("keep = 3\n", ["lose their boot entries", "3 are kept"]),
     ("", ["lose their boot entries", "2 are kept"]), ("keep = 1\n", ["boot.toml", "passed over", "2 are kept"]),
     ("kep = 4\n", ["boot.toml", "kep"]), ("keep = ", ["boot.toml", "passed over"])],
)  # fmt: skip
def test_status_warns_of_what_the_finalize_will_warn_of(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str], policy: str, words: list[str]
) -> None:
    _write_policy(host, policy)
    told = _of_status(capsys, host)
    dry_run = json.loads(flowkit.run(capsys, "finalize", "--dry-run", "--json", "--root", host.root)[1])
    assert told == dry_run["warnings"]
    for word in words:
        assert any(word in line for line in told), (word, told)
    assert bool(told) == bool(words)


def test_status_and_finalize_plan_the_same_order(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootc_fast.flows import finalize

    orders: dict[str, Any] = {}
    plan_menu = plan.plan_menu

    # status looks it up in its own module each time; finalize has it since the import.
    for module in (finalize, plan):

        def note(menu: Any, *, order: Any, name: str = module.__name__, **options: Any) -> Any:
            orders[name] = order
            return plan_menu(menu, order=order, **options)

        monkeypatch.setattr(module, "plan_menu", note)
    menu = lab.read_boot_menu(host)
    oldest = menu.own_order[-1]
    for policy in ("keep = 4\n", "keep = 3\n", f'pinned = ["{oldest}"]\n', ""):
        _write_policy(host, policy)
        _of_status(capsys, host)
        assert flowkit.run(capsys, "finalize", "--dry-run", "--root", host.root)[0] == 0
        (first, second) = orders.values()
        orders.clear()
        assert first == second, policy
        assert len(first) == {"keep = 4\n": 4, "": 2}.get(policy, 3)


def test_an_update_that_is_finalized_already_is_no_reason_to_warn_again(
    host: lab.LabHost, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_policy(host, "keep = 3\n")
    assert flowkit.run(capsys, "finalize", "--root", host.root)[0] == 0
    document = json.loads(flowkit.run(capsys, "status", "--json", "--root", host.root)[1])
    assert document["bootcFast"]["warnings"] == []
