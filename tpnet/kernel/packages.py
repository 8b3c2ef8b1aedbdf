"""Large packages, of which a module or two are used: those are imported, and not all that their ``__init__`` imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


def package_without_init(name: str) -> ModuleType:
    """A package that knows its path, so that its modules can be imported. One that was imported is left as it is.

    Its ``__init__`` is run when somebody wants what only that has.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    assert spec is not None, "one of our dependencies"
    module = importlib.util.module_from_spec(spec)

    def missing(attribute: str) -> Any:
        if importlib.util.find_spec(f"{name}.{attribute}") is not None:
            return importlib.import_module(f"{name}.{attribute}")
        if attribute.startswith("__") or vars(module).pop("__getattr__", None) is None:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        assert spec.loader is not None, "it has an __init__"
        spec.loader.exec_module(module)
        return getattr(module, attribute)

    vars(module)["__getattr__"] = missing
    sys.modules[name] = module
    return module
