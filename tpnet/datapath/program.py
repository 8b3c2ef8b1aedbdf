"""The redirect's program: compiled once, loaded once per namespace. Called by the supervisor at start.

``ready_program`` takes what an earlier start has compiled, or has ``loader`` do it in a child process;
``Program.load`` is a few system calls. Must never import bcc.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpnet.datapath import cache
from tpnet.datapath.refusal import explain_refusal
from tpnet.kernel import bpf, confined
from tpnet.kernel.signs import SPEC as SIGNS
from tpnet.model import TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.kernel.signs import Signs

_log = logging.getLogger(__name__)

_FUNCTION = "redirect"
_COMPILE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program and its own maps in the kernel; the descriptors are the caller's. ``signs`` is not among them."""

    program: int
    maps: dict[str, int]

    def close(self) -> None:
        """Let go of them."""
        for fd in (self.program, *self.maps.values()):
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Program:
    """Bytecode with gaps: each of ``relocations`` (instruction number, map name) wants a map's descriptor."""

    code: bytes
    maps: tuple[bpf.MapSpec, ...]
    relocations: tuple[tuple[int, str], ...]

    def load(self, signs: Signs) -> Loaded:
        """Make new maps and load the program with them and the signs of life; a millisecond or so.

        Raises ``Refused`` that names what is missing.
        """
        fds: dict[str, int] = {}
        try:
            for spec in self.maps:
                if spec.name != SIGNS.name:
                    fds[spec.name] = bpf.create_map(spec)
            code = self._code_with({**fds, SIGNS.name: signs.fd})
            return Loaded(bpf.load_sk_lookup(_FUNCTION, code), fds)
        except OSError as error:
            for fd in fds.values():
                os.close(fd)
            raise explain_refusal(error, "load") from error

    def _code_with(self, fds: dict[str, int]) -> bytes:
        code = bytearray(self.code)
        for instruction, name in self.relocations:
            struct.pack_into("=i", code, instruction * 8 + 4, fds[name])
        return bytes(code)


def ready_program(prove: Callable[[Program], None]) -> Program:
    """The program, ``prove``n on this kernel: as it was compiled at an earlier start, or compiled anew.

    What an earlier start has left is not trusted: if it cannot be proven, it is replaced. Raises ``TpnetError`` as
    ``compile_program`` and ``prove`` do.
    """
    folder = cache.cache_folder()
    sources = source_folder()
    files = (Path(__file__).with_name("loader.py"), *sorted(sources.rglob("*.[ch]")))
    key = cache.key_of(files)
    if (kept := cache.look_up(folder, key)) is not None:
        try:
            program = _program_of(kept)
            prove(program)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, there is another way
            _log.warning("the program that was compiled earlier is compiled anew: %s", error)
        else:
            return program
    result = _compile(sources)
    program = _program_of(result)
    prove(program)
    cache.keep(folder, key, result)
    return program


def compile_program() -> Program:
    """Compile bpf/redirect.c in a child process; half a second.

    Raises ``TpnetError``: BCC is missing, the source does not compile; ``Refused``: the kernel gives no BPF
    maps.
    """
    return _program_of(_compile(source_folder()))


def _compile(sources: Path) -> dict[str, Any]:
    """What ``loader`` prints."""
    # bcc makes maps to compile, and says little when it may not. Ask the kernel first.
    try:
        os.close(bpf.create_map(bpf.MapSpec("tpnet_probe", _BPF_MAP_TYPE_HASH, 4, 4, 1)))
    except OSError as error:
        raise explain_refusal(error, "map") from error
    command = confined.command(
        "compiler",
        sys.executable,
        "-I",
        str(Path(__file__).with_name("loader.py")),
        str(sources / "redirect.c"),
        str(sources),
        _FUNCTION,
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TpnetError(
            f"BCC did not compile {sources / 'redirect.c'} within {_COMPILE_SECONDS:.0f} s.",
            "Look at the load and the free memory of this machine, then start the agent again.",
        ) from error
    try:
        result = json.loads(done.stdout)
    except ValueError:
        result = {"error": "died"}
    if "error" in result:
        raise _compile_error(str(result["error"]), done.stderr, done.returncode)
    return dict(result)


def _program_of(result: dict[str, Any]) -> Program:
    return Program(
        bytes.fromhex(result["code"]),
        tuple(bpf.MapSpec(**spec) for spec in result["maps"]),
        tuple((instruction, name) for instruction, name in result["relocations"]),
    )


_BPF_MAP_TYPE_HASH = 1


def source_folder() -> Path:
    """Where the C sources are: beside this module when installed, at the top of a checkout otherwise.

    Raises ``TpnetError`` when neither is there.
    """
    here = Path(__file__).parent
    for folder in (here / "bpf_sources", here.parent.parent / "bpf"):
        if (folder / "redirect.c").is_file():
            return folder
    raise TpnetError(
        "The BPF source redirect.c is neither in the installed package nor in a checkout.",
        "Install tpnet again.",
    )


def _compile_error(kind: str, stderr: str, status: int) -> TpnetError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if kind == "no-bcc":
        return TpnetError(
            f"The redirect needs BCC's Python module, which {sys.executable} does not find"
            f" ({lines[-1] if lines else 'no reason given'}).",
            "Install it: apt install python3-bpfcc. A virtual environment must see the system's packages.",
        )
    if kind == "died":
        return TpnetError(
            f"BCC ended with status {status} over the redirect's program:"
            f" {lines[-1] if lines else 'silently'}.",
            "A status of -9 is the kernel's out-of-memory killer: it needs 150 MB for half a second.",
        )
    told = next((line for line in lines if "error:" in line), lines[0] if lines else "no reason given")
    if os.strerror(errno.EPERM) in told:  # which it says of a map that the kernel does not give
        return explain_refusal(PermissionError(errno.EPERM, os.strerror(errno.EPERM)), "load")
    return TpnetError(f"BCC does not compile the redirect's program: {told}", "Install tpnet again.")
