"""The asynchronous half of the ``kubernetes`` package, without the rest of it.

``tpnet.control.kubernetes.api`` uses what this gives, and nothing else imports that package. Its two ``__init__``
modules import everything there is, the synchronous client with it, which would cost each command a third of its time.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Library:
    """Modules that have no types: the client, its configuration, and the reader of kubeconfig files."""

    client: Any
    config: Any
    kube_config: Any


@cache
def library() -> Library:
    """The modules, imported by the first call, which takes 0.3 s."""
    parent = None
    for name in ("kubernetes", "kubernetes.aio"):
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            assert spec is not None, "one of our dependencies"
            # A package that knows its path, whose __init__ is not run.
            sys.modules[name] = importlib.util.module_from_spec(spec)
        if parent is not None:
            vars(parent)["aio"] = sys.modules[name]
        parent = sys.modules[name]
    names = ("client", "config", "config.kube_config")
    return Library(*(importlib.import_module(f"kubernetes.aio.{name}") for name in names))
