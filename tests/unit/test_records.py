"""records: every record of the package is what the standard library would have made of it."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

import bootc_fast
from bootc_fast.records import dataclass, field, replace


def _records() -> list[type]:
    found: dict[type, None] = {}
    for module in pkgutil.walk_packages(bootc_fast.__path__, "bootc_fast."):
        if "__main__" in module.name:
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and "__record_fields__" in vars(value):
                found[value] = None
    return list(found)


def _twin(record: type) -> type:
    """The same class, made by the standard library of the same annotations and defaults."""
    members: dict[str, Any] = {"__module__": record.__module__, "__annotations__": {}}
    for one in dataclasses.fields(record):
        members["__annotations__"][one.name] = one.type
        members[one.name] = dataclasses.field(default=one.default, default_factory=one.default_factory, repr=one.repr)  # type: ignore[call-overload]
    made = type(record.__name__, (), members)
    frozen = record.__record_frozen__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=frozen, slots=hasattr(record, "__slots__"))(made)


def _is_built(record: type, name: str) -> bool:
    """Whether a method is not one that the class statement has."""
    return bool(getattr(record, name).__code__.co_filename == "<string>")


class _Value:
    """One of any field's type."""


@pytest.mark.parametrize("record", _records(), ids=lambda one: f"{one.__module__}.{one.__qualname__}")
def test_a_record_is_what_the_standard_library_makes(record: type) -> None:
    twin = _twin(record)
    assert str(inspect.signature(record)) == str(inspect.signature(twin))
    assert record.__match_args__ == twin.__match_args__  # type: ignore[attr-defined]
    assert [(one.name, one.type) for one in dataclasses.fields(record)] == [
        (one.name, one.type) for one in dataclasses.fields(twin)
    ]
    if "__post_init__" in vars(record):
        return
    values = {name: _Value() for name in record.__match_args__}  # type: ignore[attr-defined]
    one, same, other = record(**values), record(**values), twin(**values)
    if _is_built(record, "__repr__"):
        assert repr(one) == repr(other).replace(type(other).__qualname__, record.__qualname__, 1)
    assert one == same
    assert one != other
    assert (type(one).__hash__ is None) == (type(other).__hash__ is None)
    if type(one).__hash__ is not None:
        assert hash(one) == hash(same)
    assert copy.copy(one) == one
    for name, value in values.items():
        assert getattr(dataclasses.replace(one, **{name: None}), name) is None
        assert getattr(replace(one, **{name: None}), name) is None
        if record.__record_frozen__:  # type: ignore[attr-defined]
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(one, name, None)
            with pytest.raises(dataclasses.FrozenInstanceError):
                delattr(one, name)
        else:
            setattr(one, name, None)
            assert one != same
            setattr(one, name, value)


def test_there_are_records_to_compare() -> None:
    assert len(_records()) > 100


@dataclass(frozen=True, slots=True)
class Base:
    """Two fields, one of them optional."""

    first: int
    second: list[int] = field(default_factory=list, repr=False)
    kind: ClassVar[str] = "base"


@dataclass(frozen=True, slots=True)
class Derived(Base):
    """One more, and a default of its own."""

    second: list[int] = field(default_factory=lambda: [7])
    third: str = "3"

    def __post_init__(self) -> None:
        """Refuse what is wrong."""
        if self.first < 0:
            raise ValueError("negative")


def test_factories_make_a_new_one_each_time_and_repr_leaves_out_what_it_was_told() -> None:
    assert Base(1).second is not Base(1).second
    assert repr(Base(1)) == "Base(first=1)"
    assert Base.kind == "base"


def test_a_derived_record_has_the_fields_of_both_in_order() -> None:
    assert repr(Derived(1)) == "Derived(first=1, second=[7], third='3')"
    assert Derived.__slots__ == ("third",)
    assert Derived(1) != Base(1, [7])
    with pytest.raises(ValueError, match="negative"):
        Derived(-1)
    assert not hasattr(Derived(1), "__dict__")


def test_wrong_arguments_are_refused_as_by_the_standard_library() -> None:
    for arguments in ((), (1, [], "3", 4)):
        with pytest.raises(TypeError):
            Derived(*arguments)
    with pytest.raises(TypeError):
        Derived(1, fourth=4)  # type: ignore[call-arg]


def test_a_record_survives_pickle_and_asdict() -> None:
    one = Derived(1, [2], "x")
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 its own
    assert dataclasses.asdict(one) == {"first": 1, "second": [2], "third": "x"}
    assert dataclasses.is_dataclass(one)


def test_what_is_first_used_by_many_threads_at_once_is_made_whole() -> None:
    for _ in range(50):

        @dataclass(frozen=True, slots=True)
        class Fresh:
            first: int
            second: str = "2"

        barrier, failed = threading.Barrier(4), []

        def use(made: type = Fresh, barrier: threading.Barrier = barrier, failed: list[object] = failed) -> None:
            barrier.wait()
            if hash(made(1)) != hash((1, "2")) or not repr(made(1)).endswith("Fresh(first=1, second='2')"):
                failed.append(made)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def test_importing_records_compiles_nothing_and_needs_no_dataclasses() -> None:
    code = (
        "import sys, builtins\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from bootc_fast.records import dataclass\n"
        "@dataclass(frozen=True, slots=True)\nclass One:\n    'Doc.'\n    first: int\n"
        "assert not {'dataclasses', 'inspect', 'typing'} & set(sys.modules), sorted(sys.modules)\n"
        "assert One(1).first == 1\n"
        "assert not {'dataclasses', 'inspect'} & set(sys.modules)\n"
    )
    source = str(Path(bootc_fast.__file__).parents[1])
    code = "from __future__ import annotations\n" + code
    done = subprocess.run([sys.executable, "-ISc", code, source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
