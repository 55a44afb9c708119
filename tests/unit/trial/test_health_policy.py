"""policy.py: trial.toml key by key, and what greenboot's users have disabled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hosts
import pytest

from bootc_fast.errors import InvalidStateError
from bootc_fast.trial.policy import HealthPolicy, parse_disabled, parse_health_policy, read_health_policy

if TYPE_CHECKING:
    from pathlib import Path


def test_the_admins_file_overrides_the_images_key_by_key(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    for name, text in (
        ("usr/lib", "[health]\nscript-timeout = 10\ntimeout = 60.5\ndisabled = ['a.sh']\n"),
        ("etc", "[health]\nscript-timeout = 20\nno-failed-units = true\nfailed-units-except = ['x.service']\n"),
    ):
        path = tmp_path / name / "bootc-fast/trial.toml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    conf = tmp_path / "etc/greenboot/greenboot.conf"
    conf.parent.mkdir()
    conf.write_text('### DISABLED_HEALTHCHECKS=("not.sh")\nDISABLED_HEALTHCHECKS=("b.sh" a.sh)\n')
    policy, warnings = read_health_policy(host)
    assert (policy.script_timeout_s, policy.timeout_s, policy.disabled) == (20.0, 60.5, ("a.sh", "b.sh"))
    assert (policy.no_failed_units, policy.failed_units_except) == (True, ("x.service",))
    assert warnings == ()


def test_the_networks_checks_are_off_and_each_key_is_its_own(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    off = read_health_policy(host)[0]
    assert (off.default_route, off.dns_names, off.urls, off.network_timeout_s) == (False, (), (), 60.0)
    for name, text in (("usr/lib", "default-route = true\nurls = ['http://a']"), ("etc", "dns-names = ['b.example']")):
        path = tmp_path / name / "bootc-fast/trial.toml"
        path.parent.mkdir(parents=True)
        path.write_text(f"[health]\n{text}\n")
    policy, warnings = read_health_policy(host)
    assert (policy.default_route, policy.urls, policy.dns_names, warnings) == (True, ("http://a",), ("b.example",), ())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("DISABLED_HEALTHCHECKS=()", ()),
        ("DISABLED_HEALTHCHECKS=('one.sh' \"two.sh\" three)", ("one.sh", "two.sh", "three")),
        ("X=1\n DISABLED_HEALTHCHECKS=(\n  a.sh # why\n  b.sh\n)\n", ("a.sh", "b.sh")),
        ("DISABLED_HEALTHCHECKS=(a)\nDISABLED_HEALTHCHECKS=(b)\n", ("b",)),
        ("# DISABLED_HEALTHCHECKS=(a)\n", ()),
        ("DISABLED_HEALTHCHECKS=(a", ()),
    ],
)
def test_greenboots_array_is_read_as_a_shell_reads_it(text: str, names: tuple[str, ...]) -> None:
    assert parse_disabled(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "[health]\nscript-timeout = 0",
        "[health]\nscript-timeout = true",
        "[health]\nscript-timeout = nan",
        "[health]\ntimeout = -1",
        "[health]\ntimeout = 1e9",
        "[health]\ndisabled = 'a'",
        "[health]\ndisabled = [1]",
        "[health]\nno-failed-units = 1",
        "[health]\ndefault-route = 'yes'",
        "[health]\ndns-names = ['1.2.3.4']",
        "[health]\ndns-names = ['--help']",
        "[health]\nurls = 'http://a'",
        "[health]\nurls = ['ftp://a']",
        "[health]\nurls = ['http://a:99999/']",
        "[health]\nnetwork-timeout = 0",
        "[health]\nsurprise = 1",
        "health = 3",
        "tries = 3",
        "[",
    ],
)
def test_what_cannot_be_understood_is_refused_and_as_a_file_passed_over(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidStateError, match="x: "):
        parse_health_policy(text, what="x")
    host = hosts.make_host(tmp_path)
    path = tmp_path / "etc/bootc-fast/trial.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    policy, (warning,) = read_health_policy(host)
    assert policy == HealthPolicy()
    assert warning.endswith("passed over")


def test_a_quote_of_greenboots_that_does_not_end_is_passed_over(tmp_path: Path) -> None:
    host = hosts.make_host(tmp_path)
    path = tmp_path / "etc/greenboot/greenboot.conf"
    path.parent.mkdir(parents=True)
    path.write_text('DISABLED_HEALTHCHECKS=("a b)\n')
    policy, (warning,) = read_health_policy(host)
    assert (policy, "DISABLED_HEALTHCHECKS" in warning) == (HealthPolicy(), True)
