"""Dataclasses that cost little at import: their methods are made when one is first used.

The standard library compiles six functions for every ``@dataclass(frozen=True, slots=True)``, half a millisecond each,
and a command that is to be gone in a few milliseconds imports a hundred of them and uses ten. What is made here is the
same class: type checkers see the standard decorator, and ``dataclasses.fields``, ``replace``, ``asdict`` and
``inspect.signature`` find what they look for. Only what this package uses of the decorator is here: ``frozen``,
``slots``, and of ``field`` its ``default_factory`` and ``repr``.

Source:
    The documentation of ``dataclasses``; the descriptor protocol, by which special methods are looked up, too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    _MISSING = object()
    _set = object.__setattr__

    class _Field:
        """What ``field()`` said."""

        __slots__ = ("default", "default_factory", "repr")

        def __init__(self, default, default_factory, repr):  # noqa: A002 as the standard library's
            self.default = default
            self.default_factory = default_factory
            self.repr = repr

    _PLAIN = _Field(_MISSING, _MISSING, repr=True)

    def field(*, default=_MISSING, default_factory=_MISSING, repr=True):  # noqa: A002 as the standard library's
        """Say more of a field than its default."""
        return _Field(default, default_factory, repr)

    def replace(record, /, **changes):
        """Make a copy in which some fields have other values."""
        for name in record.__record_fields__:
            if name not in changes:
                changes[name] = getattr(record, name)
        return type(record)(**changes)

    def asdict(record):
        """Make plain values of a record and of all that is in it."""
        return {name: _make_plain(getattr(record, name)) for name in record.__record_fields__}

    def _make_plain(value):
        if hasattr(type(value), "__record_fields__"):
            return asdict(value)
        if isinstance(value, dict):
            return type(value)((_make_plain(key), _make_plain(one)) for key, one in value.items())
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(_make_plain, value))
        return type(value)(map(_make_plain, value)) if isinstance(value, list | tuple) else value

    def dataclass(cls=None, /, *, frozen=False, slots=False):
        """Make a class a record of its annotations."""
        if cls is None:
            return lambda given: _make(given, frozen, slots)
        return _make(cls, frozen, slots)

    def _make(cls, is_frozen, has_slots):
        """Make the record: a class with slots is a new one, since no class can be given any."""
        fields, taken = {}, set()
        for base in reversed(cls.__mro__[1:]):
            taken.update(base.__dict__.get("__slots__", ()))
            fields.update(base.__dict__.get("__record_fields__", ()))
        own = _read_fields(cls)
        fields.update(own)
        added = {"__record_fields__": fields, "__record_frozen__": is_frozen, "__match_args__": tuple(fields), **_LAZY}
        added.update(_FROZEN if is_frozen else _MUTABLE)
        body = cls.__dict__
        for name in _OPTIONAL:
            if body.get(name) is not None:
                added.pop(name, None)
        if not has_slots:
            _add(cls, own, added)
            return cls
        if is_frozen:
            added.update(_STATE)
        namespace = {**body, **added, "__slots__": tuple(name for name in own if name not in taken)}
        for name in (*own, "__dict__", "__weakref__"):
            namespace.pop(name, None)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    def _read_fields(cls):
        """The fields that the class itself declares, in order."""
        found = {}
        for name, annotation in cls.__annotations__.items():
            given = cls.__dict__.get(name, _MISSING)
            if given is _MISSING:
                given = _PLAIN
            elif type(given) is not _Field:
                given = _Field(given, _MISSING, repr=True)
            if not annotation.startswith("ClassVar"):
                found[name] = given
        return found

    def _add(cls, own, added):
        for name, value in added.items():
            setattr(cls, name, value)
        for name, one in own.items():
            if one.default is not _MISSING:
                setattr(cls, name, one.default)
            elif name in cls.__dict__:
                delattr(cls, name)

    class _Lazy:
        """Stands in the place of a method, or of what ``dataclasses`` reads, until it is looked up."""

        __slots__ = ("complete", "name")

        def __init__(self, name, complete):
            self.name = name
            self.complete = complete

        def __get__(self, instance, owner=None):
            for cls in (owner or type(instance)).__mro__:
                if cls.__dict__.get(self.name) is self:
                    self.complete(cls)
            return getattr(owner if instance is None else instance, self.name)

    def _compile(cls, name, lines, scope):
        made = {}
        # The names of fields and nothing else: what a class statement of this package says.
        exec("\n".join(lines), scope, made)  # noqa: S102
        method = made[name]
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        method.__module__ = cls.__module__
        if name == "__init__":
            method.__annotations__ = {**_annotations_of(cls), "return": None}
        setattr(cls, name, method)

    def _complete_init(cls):
        scope = {"_set": _set, "_factory": _FACTORY}
        parameters, body = ["self"], []
        for name, one in cls.__record_fields__.items():
            value = name
            if one.default is not _MISSING:
                scope[f"_default_{name}"] = one.default
                parameters.append(f"{name}=_default_{name}")
            elif one.default_factory is not _MISSING:
                scope[f"_make_{name}"] = one.default_factory
                parameters.append(f"{name}=_factory")
                value = f"_make_{name}() if {name} is _factory else {name}"
            else:
                parameters.append(name)
            body.append(f" _set(self, {name!r}, {value})" if cls.__record_frozen__ else f" self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            body.append(" self.__post_init__()")
        _compile(cls, "__init__", [f"def __init__({', '.join(parameters)}):", *(body or [" pass"])], scope)

    def _complete_eq(cls):
        mine = "".join(f"self.{name}," for name in cls.__record_fields__)
        same = f" return ({mine}) == ({mine.replace('self.', 'other.')})"
        other = [" if other.__class__ is not self.__class__:", "  return NotImplemented"]
        _compile(cls, "__eq__", ["def __eq__(self, other):", *other, same], {})

    def _complete_hash(cls):
        values = "".join(f"self.{name}," for name in cls.__record_fields__)
        _compile(cls, "__hash__", ["def __hash__(self):", f" return hash(({values}))"], {})

    def _complete_repr(cls):
        shown = ", ".join(f"{name}={{self.{name}!r}}" for name, one in cls.__record_fields__.items() if one.repr)
        _compile(cls, "__repr__", ["def __repr__(self):", f" return self.__class__.__qualname__ + f'({shown})'"], {})

    def _complete_twin(cls):
        """Give a class what ``dataclasses`` reads, by that module itself."""
        import dataclasses

        namespace = {"__annotations__": _annotations_of(cls), "__module__": cls.__module__}
        for name, one in cls.__record_fields__.items():
            given = {}
            if one.default is not _MISSING:
                given["default"] = one.default
            if one.default_factory is not _MISSING:
                given["default_factory"] = one.default_factory
            namespace[name] = dataclasses.field(repr=one.repr, **given)
        twin = dataclasses.dataclass(frozen=cls.__record_frozen__)(type(cls.__name__, (), namespace))
        cls.__dataclass_fields__ = twin.__dataclass_fields__
        cls.__dataclass_params__ = twin.__dataclass_params__

    def _annotations_of(cls):
        found = {}
        for base in reversed(cls.__mro__):
            if "__record_fields__" in base.__dict__:
                found.update(base.__annotations__)
        return {name: found[name] for name in cls.__record_fields__}

    def _refuse(record, name, *_value):
        cls = type(record)
        if "__record_fields__" in cls.__dict__ or name in cls.__record_fields__:
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot {'assign to' if _value else 'delete'} field {name!r}")
        if _value:
            _set(record, name, *_value)
        else:
            object.__delattr__(record, name)

    def _get_state(record):
        return [getattr(record, name) for name in record.__record_fields__]

    def _set_state(record, state):
        for name, value in zip(record.__record_fields__, state, strict=True):
            _set(record, name, value)

    class _Factory:
        def __repr__(self):
            return "<factory>"

    _FACTORY = _Factory()
    # The class's own is kept where it has one.
    _OPTIONAL = ("__init__", "__eq__", "__hash__", "__repr__", "__match_args__", "__getstate__", "__setstate__")
    _LAZY = {
        "__init__": _Lazy("__init__", _complete_init),
        "__eq__": _Lazy("__eq__", _complete_eq),
        "__repr__": _Lazy("__repr__", _complete_repr),
    }
    _LAZY |= {name: _Lazy(name, _complete_twin) for name in ("__dataclass_fields__", "__dataclass_params__")}
    _LAZY["__replace__"] = replace
    _FROZEN = {"__hash__": _Lazy("__hash__", _complete_hash), "__setattr__": _refuse, "__delattr__": _refuse}
    _MUTABLE = {"__hash__": None}
    _STATE = {"__getstate__": _get_state, "__setstate__": _set_state}
