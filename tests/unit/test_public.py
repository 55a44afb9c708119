"""What the package names as public: all that a public signature mentions, at no cost until it is used."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import bootc_fast
from bootc_fast import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = Path(__file__).parents[2] / "docs/library.md"
# Of the standard library and of anyio.
OTHERS = {"Awaitable", "Callable", "Iterable", "Literal", "Mapping", "MemoryObjectSendStream", "Path", "Sequence"}


def _annotations(value: object) -> Iterator[str]:
    """All that a public function's or class's signature and attributes mention."""
    if inspect.isfunction(value):
        yield from map(str, value.__annotations__.values())
    if not inspect.isclass(value):
        return
    for one in value.__mro__:
        if not one.__module__.startswith("bootc_fast"):
            continue
        yield from map(str, inspect.get_annotations(one).values())
        for member in one.__dict__.values():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(function):
                yield from map(str, function.__annotations__.values())


@pytest.mark.parametrize("name", bootc_fast.__all__)
def test_whatever_a_public_name_mentions_is_public(name: str) -> None:
    words = {word for text in _annotations(getattr(bootc_fast, name)) for word in re.findall(r"\b[A-Z]\w+", text)}
    assert {word for word in words if not hasattr(builtins, word)} - set(bootc_fast.__all__) - OTHERS == set()


def test_every_error_class_is_public() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert classes
    assert classes <= set(bootc_fast.__all__)


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(bootc_fast.__file__).read_text())
    imported = {
        (alias.asname, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {(name, f"bootc_fast.{home}") for name, home in bootc_fast._HOMES.items()} == {
        (name, module) for name, module in imported if (module or "").startswith("bootc_fast.")
    }
    assert sorted(bootc_fast._HOMES) == bootc_fast.__all__
    assert set(bootc_fast.__all__) <= set(dir(bootc_fast))


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import bootc_fast; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["bootc_fast"], ["__future__", "bootc_fast"])


@pytest.mark.parametrize(
    ("function", "record"),
    [(bootc_fast.finalize_staged, bootc_fast.FinalizeOptions), (bootc_fast.rollback, bootc_fast.RollbackOptions)],
)
async def test_a_record_of_options_has_the_keywords_and_takes_their_place(function: Any, record: Any) -> None:
    keywords = {
        name: (one.annotation, one.default)
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name != "on_event"
    }
    assert {one.name: (one.type, one.default) for one in dataclasses.fields(record)} == keywords
    with pytest.raises(TypeError, match="options, or keywords"):
        await function("/nonexistent", record(), dry_run=True)
    with pytest.raises(bootc_fast.UsageError):
        await function("/nonexistent", record(dry_run=True))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'finalise'"):
        bootc_fast.finalise  # noqa: B018


def _documented() -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """The signatures in docs/library.md, by name."""
    text = "\n".join(re.findall(r"^```python\n(.*?)^```", LIBRARY.read_text(), re.MULTILINE | re.DOTALL))
    # A signature has no body there.
    source = re.sub(r"(\) -> [\w.,|\[\] ]+)$", r"\1: ...", text, flags=re.MULTILINE)
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)]
    return {node.name: node for node in functions}


def test_the_documented_functions_are_the_public_ones() -> None:
    public = {name for name in bootc_fast.__all__ if inspect.isfunction(getattr(bootc_fast, name))}
    assert set(_documented()) == public - {"ignore_event"}


def _write_default(one: inspect.Parameter) -> str | None:
    """A default as it is written; None where there is none."""
    if one.default is one.empty:
        return None
    if isinstance(one.default, Enum):
        return f"{type(one.default).__name__}.{one.default.name}"
    return str(getattr(one.default, "__name__", repr(one.default)))


@pytest.mark.parametrize("name", list(_documented()))
def test_documented_signatures_are_those_of_the_code(name: str) -> None:
    documented, function = _documented()[name], getattr(bootc_fast, name)
    assert isinstance(documented, ast.AsyncFunctionDef) == inspect.iscoroutinefunction(function)
    arguments = documented.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [(one, default, "positional") for one, default in zip(arguments.args, defaults, strict=True)]
    shown += [
        (one, default, "keyword") for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    found = []
    for one in inspect.signature(function).parameters.values():
        kind = "keyword" if one.kind is one.KEYWORD_ONLY else "positional"
        found.append((one.name, str(one.annotation), _write_default(one), kind))
    documented_as = [
        (one.arg, ast.unparse(one.annotation) if one.annotation else None, default and ast.unparse(default), kind)
        for one, default, kind in shown
    ]
    assert documented_as == found
    assert documented.returns is not None
    assert ast.unparse(documented.returns) == str(inspect.signature(function).return_annotation)
