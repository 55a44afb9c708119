"""What the admin, or the image, says about trials: the table ``[trial]`` of the policy files (docs/trial.md).

::

    [trial]
    tries = 3
    method = "auto"
    require-counting = false
    on-failure = "reboot"

``/etc/bootc-fast/trial.toml`` overrides ``/usr/lib/bootc-fast/trial.toml`` key by key.

Source:
    Spec trial.md, "Counting" and "Health".
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, TypeVar

from bootc_fast.boot.counting.records import DEFAULT_TRIES, CountWish, WantedMethod
from bootc_fast.machine.policy_file import Key, read_policies, refuse_unknown_keys, refusing, take_flag, take_word
from bootc_fast.records import dataclass
from bootc_fast.trial.policy import MAX_POLICY_BYTES, POLICY_FILES

if TYPE_CHECKING:
    from bootc_fast.machine.host import Host

MAX_TRIES = 9
"""One digit, so that the name under which boots are counted keeps its length."""
KEYS = (
    Key(
        "tries",
        "tries",
        f"a whole number from 0 to {MAX_TRIES}; {DEFAULT_TRIES}",
        "how often a new deployment is tried; 0 counts no boots",
    ),
    Key(
        "method", "method", '"auto", "counter" or "one-shot"; "auto"', "how boots are counted, where there is a choice"
    ),
    Key(
        "require-counting",
        "require_counting",
        "true or false; false",
        "a finalize refuses where the boots of the new deployment cannot be counted",
    ),
    Key(
        "on-failure",
        "on_failure",
        '"reboot" or "stay"; "reboot"',
        "what happens where what is on trial is not healthy",
    ),
)
"""Of the table ``[trial]``; what stands behind a semicolon is the default."""

E = TypeVar("E", bound=enum.StrEnum)


class OnFailure(enum.StrEnum):
    """What happens where what is on trial is not healthy."""

    REBOOT = "reboot"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class TrialPolicy:
    """How a new deployment is tried.

    Attributes:
        tries: How often; 0 counts no boots.
        method: How boots are counted, where there is a choice.
        require_counting: A finalize refuses where they cannot be counted.
        on_failure: What happens where what is on trial is not healthy.
    """

    tries: int = DEFAULT_TRIES
    method: WantedMethod = WantedMethod.AUTO
    require_counting: bool = False
    on_failure: OnFailure = OnFailure.REBOOT

    @property
    def wish(self) -> CountWish:
        """What the boot loader is asked for."""
        return CountWish(self.tries, self.method)


def parse_trial_policy(text: str, *, what: str, base: TrialPolicy | None = None) -> TrialPolicy:
    """Parse a policy file on top of another policy; its other tables are passed over.

    Args:
        text: TOML.
        what: What is being read, for the error.
        base: What the file overrides.

    Raises:
        InvalidStateError: Not TOML, an unknown key, or a value that is none.
    """
    base = base or TrialPolicy()
    import tomllib

    with refusing(what, "trial.toml"):
        table = tomllib.loads(text).pop("trial", {})
        if not isinstance(table, dict):
            raise TypeError("'trial' is no table")
        policy = TrialPolicy(
            tries=_tries(table, base.tries),
            method=_word(table, "method", base.method),
            require_counting=take_flag(table, "require-counting", default=base.require_counting),
            on_failure=_word(table, "on-failure", base.on_failure),
        )
        refuse_unknown_keys(table, [key.name for key in KEYS])
    return policy


def _tries(table: dict[str, Any], default: int) -> int:
    value = table.pop("tries", default)
    if type(value) is not int or not 0 <= value <= MAX_TRIES:
        raise ValueError(f"'tries' is no whole number from 0 to {MAX_TRIES}")
    return value


def _word(table: dict[str, Any], key: str, default: E) -> E:
    kind = type(default)
    return kind(take_word(table, key, kind, default.value))


def read_trial_policy(host: Host) -> tuple[TrialPolicy, tuple[str, ...]]:
    """Read the host's policy files; blocks.

    A file that cannot be understood is passed over with a warning: an update is finalized all the same.

    Args:
        host: Whose files.

    Returns:
        The policy, and the warnings.
    """
    policy, warnings = read_policies(host, POLICY_FILES, parse_trial_policy, TrialPolicy(), max_bytes=MAX_POLICY_BYTES)
    return policy, tuple(warnings)
