"""Objects of ``tpnet.model`` to and from JSON data, checked on the way in.

Used wherever an object crosses a socket. Never guesses: an unknown field, a missing one or one of another type is
refused with a sentence that names it.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from tpnet.model.errors import InvalidInput

T = TypeVar("T")


_adapters: dict[type, Any] = {}


def _adapter(cls: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(with_config(ConfigDict(extra="forbid"))(cls))
    return _adapters[cls]


def prepare(*classes: type) -> None:
    """Do now what the first ``encode`` or ``decode`` of each takes: a few tenths of a second, most of it an import."""
    for cls in classes:
        _adapter(cls)


def encode(obj: object) -> dict[str, Any]:
    """Plain JSON data of a dataclass of ``tpnet.model``."""
    return cast("dict[str, Any]", _adapter(type(obj)).dump_python(obj, mode="json"))


def decode(cls: type[T], data: object) -> T:
    """The object that ``data`` describes.

    Raises ``InvalidInput`` that names the first field at fault.
    """
    from pydantic import ValidationError

    try:
        return cast("T", _adapter(cls).validate_python(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the object"
        raise InvalidInput(f"{cls.__name__}: {where}: {first['msg']}.") from error
