"""Compiled Python that is the same whenever it is made: in the image nothing can be compiled, its root is read-only."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from typing import TYPE_CHECKING

from agentimage.tools import BuildError

if TYPE_CHECKING:
    from agentimage.tree import Tree

_MAGIC = 3495  # Python 3.11's, importlib._bootstrap_external

# In a process of its own, with nothing loaded and hashes of a fixed seed: what marshal writes depends on both.
# It takes path, length and bytes of one source after the other, and gives back length and code; 0 for what is no Python.
_COMPILER = r"""
import importlib.util, marshal, sys
take, give = sys.stdin.buffer, sys.stdout.buffer
while path := take.readline():
    source = take.read(int(take.readline()))
    try:
        code = compile(source, path.decode().rstrip("\n"), "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        give.write(b"0\n")
        continue
    # PEP 552: 1 is a hash that is not checked at each start
    parts = importlib.util.MAGIC_NUMBER, b"\1\0\0\0", importlib.util.source_hash(source), marshal.dumps(code)
    made = b"".join(parts)
    give.write(b"%d\n" % len(made) + made)
"""


def compile_all(tree: Tree) -> None:
    """Add the compiled form of every module of the tree."""
    if int.from_bytes(util.MAGIC_NUMBER[:2], "little") != _MAGIC:
        raise BuildError(f"The image has Python 3.11, and it takes that to build it. This is {sys.version}.")
    sources = [path for path in sorted(tree.entries) if path.endswith(".py") and tree.entries[path].data]
    asked = bytearray()
    for path in sources:
        data = tree.entries[path].data or b""
        asked += f"/{path}\n{len(data)}\n".encode() + data
    command = [sys.executable, "-s", "-S", "-W", "ignore", "-c", _COMPILER]
    done = subprocess.run(
        command, input=bytes(asked), env={"PYTHONHASHSEED": "0"}, capture_output=True, check=False
    )
    if done.returncode:
        raise BuildError(f"Python could not be compiled: {done.stderr.decode(errors='replace')}")
    answer, at = done.stdout, 0
    for path in sources:
        end = answer.index(b"\n", at)
        at, start = end + 1 + int(answer[at:end]), end + 1
        if at > start:
            folder, _, name = path.rpartition("/")
            tree.file(f"{folder}/__pycache__/{name[:-3]}.cpython-311.pyc", answer[start:at])
