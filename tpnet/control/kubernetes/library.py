"""The asynchronous half of the ``kubernetes`` package, without the rest of it.

``tpnet.control.kubernetes.api`` uses what this gives, and nothing else imports that package. Its two ``__init__``
modules import everything there is, the synchronous client with it, which would cost each command a third of its time.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

from tpnet.kernel.packages import package_without_init


@dataclass(frozen=True, slots=True)
class Library:
    """Modules that have no types: the client, its configuration, and the reader of kubeconfig files."""

    client: Any
    config: Any
    kube_config: Any


@cache
def library() -> Library:
    """The modules, imported by the first call, which takes 0.3 s."""
    parent = package_without_init("kubernetes")
    vars(parent)["aio"] = package_without_init("kubernetes.aio")
    names = ("client", "config", "config.kube_config")
    return Library(*(importlib.import_module(f"kubernetes.aio.{name}") for name in names))
