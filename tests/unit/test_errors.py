"""errors.py: the exit codes of the specification, and that every error survives a pickle and a copy."""

from __future__ import annotations

import copy
import errno
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest

import bootc_fast
from bootc_fast import errors
from bootc_fast.flows.steps import single_error
from bootc_fast.text import describe_error
from bootc_fast.types import EtcConflict, Strategy

CLASSES = sorted(
    {
        value
        for name in bootc_fast.__all__
        if inspect.isclass(value := getattr(bootc_fast, name)) and issubclass(value, Exception)
    }
    - {errors.BootcFastErrorGroup},
    key=lambda one: one.__name__,
)
# One value for each type of an argument, none of them a default.
_VALUES = {
    "str": "text \x1b\u202e\udcff",
    "int": 77,
    "float": 2.5,
    "tuple[str, ...]": ("mkfs", "-x"),
    "tuple[EtcConflict, ...]": (EtcConflict(b"a\xff", "changed", "deleted", Strategy.FAIL, None),),
    "str | None": "a hint",
}


def _make(kind: type[Exception]) -> Exception:
    """An error with a value of its own in every argument, notes, and a cause."""
    parameters = inspect.signature(kind).parameters
    error = kind(**{name: _VALUES[one.annotation] for name, one in parameters.items()})
    error.add_note("first note")
    error.add_note("second note")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/a file")
    return error


def _pickle(error: Exception, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own


def _facts(error: BaseException | None) -> Any:
    if error is None:
        return None
    facts = {name: value for name, value in vars(error).items() if name != "__cause__"}
    os_error = (error.errno, error.filename) if isinstance(error, OSError) else None
    return type(error), error.args, str(error), facts, os_error, _facts(error.__cause__)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("BootcFastError", 1),
        ("UsageError", 2),
        ("NotBootcHostError", 3),
        ("NoRollbackTargetError", 4),
        ("EtcConflictError", 5),
        ("ImageFormatError", 6),
        ("FatFormatError", 6),
        ("MountError", 6),
        ("EspError", 6),
        ("BootEntryError", 7),
        ("StepTimeoutError", 8),
        ("LockedError", 8),
        ("SoftRebootError", 9),
        ("InvalidStateError", 10),
        ("VerityMismatchError", 11),
        ("SignatureError", 11),
        ("TrialFailedError", 12),
    ],
)
def test_every_error_class_has_the_exit_code_of_the_specification(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_every_error_class_pickles_and_copies_with_all_that_it_says() -> None:
    for kind in CLASSES:
        error = _make(kind)
        pickled = [_pickle(error, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        for again in (*pickled, copy.copy(error), copy.deepcopy(error)):
            assert _facts(again) == _facts(error)
            assert again.__suppress_context__


def test_a_cause_that_does_not_pickle_is_left_behind() -> None:
    class LocalError(Exception):
        pass

    error = bootc_fast.LockedError("waiting", hint="wait")
    error.__cause__ = LocalError()
    again = _pickle(error, pickle.HIGHEST_PROTOCOL)
    assert (str(again), again.hint, again.__cause__) == ("waiting", "wait", None)


def test_every_error_class_comes_out_of_a_process_pool() -> None:
    # Spawned processes would leave Python's resource tracker behind.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        for kind in CLASSES:
            error = _make(kind)
            # Raised there, as from a flow; several at once as their group.
            for raised in (error, ExceptionGroup("two", [error, _make(kind)])):
                found = pool.submit(partial(exec, "raise error", {"error": raised})).exception()
                assert found is not None
                leaves = found.exceptions if isinstance(found, ExceptionGroup) else (found,)
                for leaf in leaves:
                    # The pool puts a text in the place of what the outermost error was raised from.
                    assert _facts(leaf)[:5] == _facts(error)[:5]


def _group() -> errors.BootcFastErrorGroup:
    group = errors.BootcFastErrorGroup(
        "looking", [errors.BootEntryError("no entry", hint="h"), errors.InvalidStateError("no marker"), OSError(5, "x")]
    )
    group.add_note("a note")
    return group


def test_a_group_is_an_error_of_the_package_and_a_group_wherever_it_goes() -> None:
    for group in (_group(), copy.copy(_group()), copy.deepcopy(_group()), _pickle(_group(), pickle.HIGHEST_PROTOCOL)):
        assert isinstance(group, errors.BootcFastError)
        assert isinstance(group, ExceptionGroup)
        assert (group.exit_code, group.hint, group.__notes__) == (10, None, ["a note"])
        assert [str(one) for one in group.exceptions] == ["no entry", "no marker", "[Errno 5] x"]
        assert describe_error(group) == "no entry; no marker; x"


def test_a_part_of_a_group_is_one_again_with_its_own_exit_code() -> None:
    caught: list[BaseException] = []
    try:
        raise _group()
    except* errors.InvalidStateError as part:
        caught.append(part)
    except* (errors.BootEntryError, OSError) as part:
        caught.append(part)
    assert [type(one) for one in caught] == [errors.BootcFastErrorGroup] * 2
    assert [errors.code_of(one) for one in caught] == [10, 7]


def test_several_failures_of_a_flow_leave_it_as_one_error() -> None:
    two = ExceptionGroup("tasks", [errors.BootEntryError("a"), ExceptionGroup("more", [OSError(5, "b")])])
    with pytest.raises(errors.BootcFastError) as caught, single_error():
        raise two
    assert isinstance(caught.value, errors.BootcFastErrorGroup)
    assert caught.value.exit_code == 7
    # A defect among them is nothing that a caller expects.
    with pytest.raises(ExceptionGroup) as raised, single_error():
        raise ExceptionGroup("tasks", [errors.BootEntryError("a"), ZeroDivisionError("b")])
    assert not isinstance(raised.value, errors.BootcFastError)
