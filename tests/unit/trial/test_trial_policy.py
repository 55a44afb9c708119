"""trial_policy.py: the table ``[trial]`` of trial.toml, key by key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hosts
import pytest

from bootc_fast.boot.counting.records import WantedMethod
from bootc_fast.errors import InvalidStateError
from bootc_fast.trial.policy import read_health_policy
from bootc_fast.trial.trial_policy import OnFailure, TrialPolicy, parse_trial_policy, read_trial_policy

if TYPE_CHECKING:
    from pathlib import Path


def _write(root: Path, where: str, text: str) -> None:
    path = root / where / "bootc-fast/trial.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_the_admins_file_overrides_the_images_key_by_key(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    _write(tmp_path, "usr/lib", "[trial]\ntries = 5\nmethod = 'one-shot'\nrequire-counting = true\n")
    _write(tmp_path, "etc", "[trial]\ntries = 0\non-failure = 'stay'\n[health]\ntimeout = 60\n")
    policy, warnings = read_trial_policy(host)
    assert policy == TrialPolicy(0, WantedMethod.ONE_SHOT, require_counting=True, on_failure=OnFailure.STAY)
    assert warnings == ()
    assert read_health_policy(host)[0].timeout_s == 60.0


def test_without_a_file_three_tries_are_counted_as_the_host_can(tmp_path: Path) -> None:
    policy, warnings = read_trial_policy(hosts.make_host(tmp_path))
    assert (policy.tries, policy.method, policy.require_counting, policy.on_failure) == (3, "auto", False, "reboot")
    assert warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "tries = 3",
        "[trial]\ntries = -1",
        "[trial]\ntries = 10",
        "[trial]\ntries = true",
        "[trial]\ntries = '3'",
        "[trial]\ntries = 1.5",
        "[trial]\nmethod = 'grubenv'",
        "[trial]\nmethod = 3",
        "[trial]\nmethod = ['auto']",
        "[trial]\nrequire-counting = 'yes'",
        "[trial]\non-failure = 'halt'",
        "[trial]\ntrys = 3",
        "trial = 3",
        "[trial",
    ],
)
def test_what_is_no_policy_is_passed_over_with_a_warning(tmp_path: Path, text: str) -> None:
    host = hosts.make_host(tmp_path)
    _write(tmp_path, "etc", text + "\n")
    if text == "tries = 3":
        assert parse_trial_policy(text, what="x") == TrialPolicy()
        return
    with pytest.raises(InvalidStateError, match=r"^x: "):
        parse_trial_policy(text, what="x")
    policy, warnings = read_trial_policy(host)
    assert policy == TrialPolicy()
    assert len(warnings) == 1
    assert warnings[0].endswith("passed over")
