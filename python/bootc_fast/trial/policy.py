"""What the admin, or the image, says about health checks: policy files (docs/health.md).

A policy file is TOML::

    [health]
    script-timeout = 300
    timeout = 600
    disabled = ["02_watchdog.sh"]
    no-failed-units = true
    failed-units-except = ["example.service"]
    default-route = true
    dns-names = ["example.com"]
    urls = ["https://example.com/healthz"]
    network-timeout = 60

``/etc/bootc-fast/trial.toml`` overrides ``/usr/lib/bootc-fast/trial.toml`` key by key.

Source:
    Spec trial.md, "Health"; greenboot, ``greenboot.conf``.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from bootc_fast.errors import FileSystemError, InvalidStateError
from bootc_fast.machine.policy_file import (
    Key,
    read_policies,
    read_policy_file,
    refuse_unknown_keys,
    refusing,
    take_flag,
)
from bootc_fast.records import dataclass, replace
from bootc_fast.text import escape
from bootc_fast.trial.network import is_host_name, parse_url

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

POLICY_FILES = ("usr/lib/bootc-fast/trial.toml", "etc/bootc-fast/trial.toml")
"""Below the host's root; later ones override earlier ones."""
GREENBOOT_CONF = "etc/greenboot/greenboot.conf"
MAX_POLICY_BYTES = 1 << 16
MAX_SECONDS = 24 * 3600.0
_SECONDS = f"a number of seconds above 0, up to {MAX_SECONDS:g}"
KEYS = (
    Key("script-timeout", "script_timeout_s", f"{_SECONDS}; 300", "for each script"),
    Key("timeout", "timeout_s", f"{_SECONDS}; 600", "for all checks together"),
    Key("disabled", "disabled", "a list of file names", "scripts that are not run; those of greenboot.conf are added"),
    Key("no-failed-units", "no_failed_units", "true or false; false", "a failed unit of systemd is unhealthy"),
    Key("failed-units-except", "failed_units_except", "a list of units", "units that may fail all the same"),
    Key("default-route", "default_route", "true or false; false", "no way to the internet is unhealthy"),
    Key("dns-names", "dns_names", "a list of host names", "names that the host's resolver has to know"),
    Key("urls", "urls", "a list of http and https addresses", "what has to answer"),
    Key("network-timeout", "network_timeout_s", f"{_SECONDS}; 60", "for how long the last three are tried again"),
)
"""Of the table ``[health]``; what stands behind a semicolon is the default."""
TABLES = ("health", "trial")
"""Of the file; `trial_policy` reads the second."""
# An array of the shell's, on one line or several.
_DISABLED = re.compile(r"^[ \t]*DISABLED_HEALTHCHECKS=\((?P<words>[^)]*)\)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How a host's health is judged.

    Attributes:
        script_timeout_s: For each script, in seconds.
        timeout_s: For all of them, in seconds.
        disabled: File names of scripts that are not run.
        no_failed_units: A unit that has failed is unhealthy.
        failed_units_except: Units that may have failed.
        default_route: No way to the internet is unhealthy.
        dns_names: Names that the host's resolver has to know.
        urls: What has to answer.
        network_timeout_s: For how long each of the last three is tried again, in seconds.
    """

    script_timeout_s: float = 300.0
    timeout_s: float = 600.0
    disabled: tuple[str, ...] = ()
    no_failed_units: bool = False
    failed_units_except: tuple[str, ...] = ()
    default_route: bool = False
    dns_names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    network_timeout_s: float = 60.0


def parse_health_policy(text: str, *, what: str, base: HealthPolicy | None = None) -> HealthPolicy:
    """Parse a policy file on top of another policy.

    Args:
        text: TOML.
        what: What is being read, for the error.
        base: What the file overrides.

    Raises:
        InvalidStateError: Not TOML, an unknown key, or a value that is none.
    """
    base = base or HealthPolicy()
    import tomllib

    with refusing(what, "trial.toml"):
        document = tomllib.loads(text)
        table = document.pop("health", {})
        # `trial_policy` reads that.
        document.pop("trial", None)
        refuse_unknown_keys(document, TABLES)
        if not isinstance(table, dict):
            raise TypeError("'health' is no table")
        policy = HealthPolicy(
            script_timeout_s=_seconds(table, "script-timeout", base.script_timeout_s),
            timeout_s=_seconds(table, "timeout", base.timeout_s),
            disabled=_names(table, "disabled", base.disabled),
            no_failed_units=take_flag(table, "no-failed-units", default=base.no_failed_units),
            failed_units_except=_names(table, "failed-units-except", base.failed_units_except),
            default_route=take_flag(table, "default-route", default=base.default_route),
            dns_names=_host_names(table, "dns-names", base.dns_names),
            urls=_urls(table, "urls", base.urls),
            network_timeout_s=_seconds(table, "network-timeout", base.network_timeout_s),
        )
        refuse_unknown_keys(table, [key.name for key in KEYS])
    return policy


def _seconds(table: dict[str, Any], key: str, default: float) -> float:
    value = table.pop(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
        raise ValueError(f"'{key}' is no number of seconds above 0 and up to {MAX_SECONDS:g}")
    return float(value)


def _names(table: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = table.pop(key, list(default))
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"'{key}' is no list of names")
    return tuple(value)


def _host_names(table: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    names = _names(table, key, default)
    for name in names:
        if not is_host_name(name):
            raise ValueError(f"'{key}': '{escape(name)}' is no host name")
    return names


def _urls(table: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    urls = _names(table, key, default)
    for url in urls:
        try:
            parse_url(url)
        except ValueError as error:
            raise ValueError(f"'{key}': {error}") from error
    return urls


def parse_disabled(text: str) -> tuple[str, ...]:
    """Read ``DISABLED_HEALTHCHECKS=("a.sh" "b.sh")`` of greenboot's configuration; the last one counts.

    Raises:
        ValueError: A quote that does not end.
    """
    found = [match["words"] for match in _DISABLED.finditer(text)]
    return tuple(shlex.split(found[-1], comments=True)) if found else ()


def read_health_policy(host: Host) -> tuple[HealthPolicy, tuple[str, ...]]:
    """Read the host's policy files and greenboot's; blocks.

    A file that cannot be understood is passed over with a warning: health is judged all the same.

    Args:
        host: Whose files.

    Returns:
        The policy, and the warnings.
    """
    policy, warnings = read_policies(
        host, POLICY_FILES, parse_health_policy, HealthPolicy(), max_bytes=MAX_POLICY_BYTES
    )
    path = host.root / GREENBOOT_CONF
    try:
        text = read_policy_file(host, path, max_bytes=MAX_POLICY_BYTES)
        disabled = parse_disabled(text) if text is not None else ()
        policy = replace(policy, disabled=tuple(dict.fromkeys((*policy.disabled, *disabled))))
    except (InvalidStateError, FileSystemError) as error:
        warnings.append(f"{error}: passed over")
    except ValueError as error:
        warnings.append(f"reading {path}: DISABLED_HEALTHCHECKS: {error}: passed over")
    return policy, tuple(warnings)
