"""API data to the dataclasses of ``tpnet.model.kinds`` and back.

Agents, the session daemon and the command line call it at the edge, and work with plain classes inside. It is
lenient about what it does not know, since agents and clients of other versions write to the same objects, and
never about what it needs. Texts come out clean, and go there clean, but for rules, which are compared byte for byte: the
API server takes no others.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tpnet.model import About, HeaderRule, InvalidInput, PathRule, clean

if TYPE_CHECKING:
    from dataclasses import Field

T = TypeVar("T")

_NOTHING = About("")


def camel(name: str) -> str:
    """``tunnel_port`` as the API says it: ``tunnelPort``."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def is_required(field: Field[Any]) -> bool:
    """Whether the API wants this field to be given."""
    return field.default is MISSING and field.default_factory is MISSING


@cache
def shape_of(cls: type) -> dict[str, tuple[Any, About]]:
    """The plain type of each field of a class of ``tpnet.model``, and what is said about it."""
    shape: dict[str, tuple[Any, About]] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if get_origin(hint) is Annotated:
            plain, *extras = get_args(hint)
            shape[name] = plain, next((extra for extra in extras if isinstance(extra, About)), _NOTHING)
        else:
            shape[name] = hint, _NOTHING
    return shape


def to_api(obj: Any) -> dict[str, Any]:
    """An object as API data. Fields that have their default are left out; required ones never are."""
    data: dict[str, Any] = {}
    for field in fields(obj):
        value = getattr(obj, field.name)
        if is_required(field) or value != field.default:
            exact = isinstance(obj, (HeaderRule, PathRule))
            data[camel(field.name)] = value if exact and type(value) is str else _plain(value)
    if isinstance(obj, HeaderRule) and not obj.digest:
        data["value"] = obj.value  # an empty one is said too: without any, a digest has to be there
    return data


def from_api(cls: type[T], data: Any) -> T:
    """The object that API data describes; fields it does not know are passed over.

    Raises ``InvalidInput`` that names the first field that is missing or of another type.
    """
    return _object(cls, data, cls.__name__)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_api(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return str(value)
    return clean(value) if isinstance(value, str) else value


def _object(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, dict):
        raise InvalidInput(f"{where} is {_kind(data)}, not an object.")
    given = {}
    shape = shape_of(cast("type", cls))
    exact = cls in {HeaderRule, PathRule}
    for field in fields(cls):  # type: ignore[arg-type]
        name = camel(field.name)
        if data.get(name) is not None:
            plain, _ = shape[field.name]
            value = _value(plain, data[name], f"{where}.{name}")
            given[field.name] = data[name] if exact and plain is str else value
        elif is_required(field):
            raise InvalidInput(f"{where} has no {name}.")
    if cls is HeaderRule and not given.keys() & {"value", "digest"}:
        raise InvalidInput(f"{where} has no value.")
    return cls(**given)


def _value(plain: Any, data: Any, where: str) -> Any:
    origin = get_origin(plain)
    if origin in {Union, types.UnionType}:
        options = [option for option in get_args(plain) if option is not types.NoneType]
        if len(options) == 1:
            return _value(options[0], data, where)
        if type(data) in options:
            return clean(data) if isinstance(data, str) else data
        raise InvalidInput(f"{where} is {_kind(data)}.")
    if origin is tuple:
        if not isinstance(data, list):
            raise InvalidInput(f"{where} is {_kind(data)}, not a list.")
        return tuple(_value(get_args(plain)[0], item, f"{where}[{n}]") for n, item in enumerate(data))
    if is_dataclass(plain):
        return _object(plain, data, where)  # type: ignore[arg-type]
    if issubclass(plain, StrEnum):
        try:
            return plain(data)
        except ValueError:
            raise InvalidInput(
                f"{where} is {data!r}, which is none of {', '.join(plain)}.",
                "The object may have been made by a newer version of tpnet.",
            ) from None
    if type(data) is not plain:
        raise InvalidInput(f"{where} is {_kind(data)}, not {_WORDS[plain]}.")
    return clean(data) if plain is str else data


_WORDS = {str: "a text", int: "a number", bool: "true or false", list: "a list", dict: "an object"}


def _kind(data: Any) -> str:
    return _WORDS.get(type(data), f"{data!r}")
