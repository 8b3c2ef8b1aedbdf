"""The compiler process: BCC turns bpf/redirect.c into bytecode, prints it, and exits. Run by ``program``.

The only importer of bcc. Runs as a child, confined (``tpnet.kernel.confined``), isolated (``python -I``) and for half a
second, so that LLVM's 60 MB never sit in the long-lived processes; imports nothing of ours. Must never attach anything:
the maps it makes to compile vanish with it.

Output, one JSON object: ``code`` (hexadecimal), ``maps`` (as ``bpf.MapSpec``), ``relocations`` (instruction
number, map name), or ``error``: ``no-bcc`` or ``compile`` (the message is on standard error).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1


def compile_source(source: str, headers: str, function: str) -> dict[str, Any]:
    """What goes to standard output, see above. ``headers`` stands in for kernel headers."""
    os.environ["BCC_KERNEL_SOURCE"] = headers
    try:
        import bcc
    except (ImportError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return {"error": "no-bcc"}
    try:
        module = bcc.BPF(src_file=source.encode())
    except Exception as error:  # noqa: BLE001  bcc raises plain Exception for everything
        sys.stderr.write(f"{error}\n")
        return {"error": "compile"}
    library = bcc.lib
    maps = []
    names: dict[int, str] = {}
    for index in range(library.bpf_num_tables(module.module)):
        library.bpf_table_name.restype = ctypes.c_char_p
        name = library.bpf_table_name(module.module, index).decode()
        names[library.bpf_table_fd_id(module.module, index)] = name
        maps.append(
            {
                "name": name,
                "kind": library.bpf_table_type_id(module.module, index),
                "key_size": library.bpf_table_key_size_id(module.module, index),
                "value_size": library.bpf_table_leaf_size_id(module.module, index),
                "entries": library.bpf_table_max_entries_id(module.module, index),
                "flags": library.bpf_table_flags_id(module.module, index),
            }
        )
    code = bytes(module.dump_func(function.encode()))
    return {"code": code.hex(), "maps": maps, "relocations": _relocations(code, names)}


def _relocations(code: bytes, names: dict[int, str]) -> list[tuple[int, str]]:
    """Where the code names a map by the file descriptor that it has in this process."""
    return [
        (at // 8, names[int.from_bytes(code[at + 4 : at + 8], sys.byteorder)])
        for at in range(0, len(code), 8)
        if code[at] == _LD_IMM64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD
    ]


def main() -> None:
    """``loader.py SOURCE HEADERS FUNCTION``."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    result = compile_source(*sys.argv[1:4])
    json.dump(result, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # LLVM's exit handlers take longer than the compilation


if __name__ == "__main__":
    main()
