"""The form of a call on the control socket: one JSON object per line, one answer per call, in order.

``client`` and ``server`` of this folder use it. Call: ``{"call": name, "args": {...}}``. Answer: ``{"ok":
...}`` or ``{"error": {"kind", "message", "hint"}}`` as ``TpnetError.to_json`` gives it. It must never accept
a line without end.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tpnet.model import InvalidInput, TpnetError

MAX_LINE = 8 << 20
"""Bytes of one call or answer. A thousand intercepts in one status are about half a mebibyte."""
SOCKET_NAME = "agent.sock"
"""The control socket's name inside the run directory."""


def default_run_dir() -> Path:
    """The run directory: ``TPNET_RUN_DIR``, or ``/run/tpnet``."""
    return Path(os.environ.get("TPNET_RUN_DIR") or "/run/tpnet")


def encode_call(name: str, args: dict[str, Any]) -> bytes:
    """The line of a call."""
    return _line({"call": name, "args": args})


def encode_ok(value: Any) -> bytes:
    """The line of an answer."""
    return _line({"ok": value})


def encode_error(error: TpnetError) -> bytes:
    """The line of a refusal."""
    return _line({"error": error.to_json()})


def decode_call(line: bytes) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call.

    Raises ``InvalidInput`` when the line is not a call.
    """
    data = _object(line)
    name, args = data.get("call"), data.get("args")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise InvalidInput('A call on the control socket is {"call": NAME, "args": {...}}.')
    return name, args


def decode_answer(line: bytes) -> Any:
    """What was answered.

    Raises the ``TpnetError`` that the other side sent, ``InvalidInput`` when the line is not an answer.
    """
    data = _object(line)
    if "ok" in data:
        return data["ok"]
    error = data.get("error")
    if not isinstance(error, dict):
        raise InvalidInput('An answer on the control socket is {"ok": ...} or {"error": {...}}.')
    raise TpnetError.from_json(error)


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("A line on the control socket is not JSON.") from error
    if not isinstance(data, dict):
        raise InvalidInput("A line on the control socket is not a JSON object.")
    return data
