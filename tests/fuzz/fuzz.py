"""Fuzz every place where bytes of others come in: ``python tests/fuzz/fuzz.py --seconds 600 [--only NAME …]``.

Guided by coverage where atheris is (x86-64), else by mutation alone. Each target gets its share of the time in a process
of its own. What reached new code is kept in ``.cache/fuzz`` and is where the next run begins; what raised, hung or ate
memory is printed and kept there too: put it into ``found/TARGET``, where every test run tries it again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "fuzz"
PATHS = [HERE, ROOT / "tests" / "unit" / "http", ROOT / "tests" / "unit" / "agent"]
SECONDS_PER_INPUT = 20  # a loaded machine is slow
MEBIBYTES = 2048
LEAST = 1.0


def load():
    """All targets."""
    sys.path[:0] = [str(path) for path in PATHS]
    import registry
    import targets_cluster
    import targets_http
    import targets_local

    assert targets_cluster
    assert targets_http
    assert targets_local
    return registry.TARGETS


def shut_off() -> None:
    """What is fuzzed asks no network and starts no program: this process is in a network of its own, where it may."""
    from tpnet.kernel.libc import LIBC

    LIBC.unshare(0x4000_0000)  # CLONE_NEWNET, linux/sched.h; without root it stays as it is

    def no(*_args, **_named):
        raise OSError("not while it is fuzzed")

    subprocess.Popen.__init__ = no


def child(name: str, corpus: Path, seconds: int, seed: int) -> None:
    """Fuzz one target until the time is over. Ends this process."""
    if find_atheris():
        import atheris

        with atheris.instrument_imports(include=["tpnet"], enable_loader_override=False):
            targets = load()
        one = targets[name]
        shut_off()
        flags = {
            "max_total_time": seconds,
            "max_len": one.longest,
            "timeout": SECONDS_PER_INPUT,
            "rss_limit_mb": MEBIBYTES,
            "artifact_prefix": f"{CACHE}/raised-{name}-",
            "print_final_stats": 1,
            "seed": seed,
        }
        if one.words:
            flags["dict"] = words = corpus.parent / f"{name}.words"
            lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in one.words)
            words.write_text("".join(f'"{line}"\n' for line in lines))
        atheris.Setup(["fuzz", *(f"-{key}={value}" for key, value in flags.items()), str(corpus)], one.run)
        atheris.Fuzz()
    else:
        one = load()[name]
        shut_off()
        mutate(one, corpus, seconds, seed)


def mutate(one, corpus: Path, seconds: float, seed: int) -> int:
    """Try what mutation alone makes of seeds and words; how many inputs."""
    chance = random.Random(seed)
    pool = [path.read_bytes() for path in sorted(corpus.iterdir())] or list(one.seeds)
    end, tried = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.randint(0, 6)):
            at, size = chance.randint(0, len(data)), chance.choice([0, 0, 1, 2, 8])
            new = (
                chance.choice(one.words)
                if one.words and chance.random() < 0.5
                else chance.randbytes(chance.randint(0, 3))
            )
            data[at : at + size] = new
        data = data[: one.longest]
        try:
            one.run(bytes(data))
        except Exception:
            (CACHE / f"raised-{one.name}-{abs(hash(bytes(data))):x}").write_bytes(data)
            raise
        tried += 1
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)
    return tried


def find_atheris() -> bool:
    """Whether coverage can guide."""
    import importlib.util

    return importlib.util.find_spec("atheris") is not None


def fuzz(one, seconds: float, corpora: Path, seed: int) -> tuple[int, float, str]:
    """Fuzz one target in a child: how many inputs, seconds of processor time, and what was found."""
    corpus = corpora / one.name
    CACHE.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(one.seeds):
        (corpus / f"seed-{number}").write_bytes(first)
    known = set(CACHE.glob(f"raised-{one.name}-*"))
    command = [sys.executable, __file__, "--child", one.name, "--seconds", str(max(1, round(seconds)))]
    command += ["--corpora", str(corpora), "--seed", str(seed)]
    before = os.times()
    with tempfile.TemporaryFile() as log:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=seconds + 120, check=False
            )
        log.seek(0)
        said = log.read().decode(errors="replace")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    tried = re.search(r"number_of_executed_units:\s*(\d+)", said)
    fresh = sorted(set(CACHE.glob(f"raised-{one.name}-*")) - known)
    found = ""
    if fresh or tried is None:
        found = "\n".join([*said.strip().splitlines()[-60:], *map(str, fresh)])
    return int(tried[1]) if tried else 0, cpu, found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--fresh", action="store_true", help="from the seeds alone, by one chance: as make test does"
    )
    parser.add_argument("--child", default="")
    parser.add_argument("--corpora", type=Path, default=CACHE)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.corpora / asked.child, int(asked.seconds), asked.seed)
        return 0
    if asked.fresh:
        with tempfile.TemporaryDirectory() as folder:
            return run(asked.only, asked.seconds, Path(folder), 1)
    return run(asked.only, asked.seconds, asked.corpora, asked.seed)


def run(only: list[str], seconds: float, corpora: Path, seed: int) -> int:
    """Fuzz targets one after the other; the exit code."""
    targets = load()
    names = only or sorted(targets)
    share = max(LEAST, seconds / len(names))
    total = inputs = 0.0
    problems = 0
    print(
        f"{len(names)} targets, {share:.0f} s each, {'guided by coverage' if find_atheris() else 'by mutation alone'}"
    )
    for name in names:
        tried, cpu, found = fuzz(targets[name], share, corpora, seed)
        total, inputs = total + cpu, inputs + tried
        print(f"{'RAISED' if found else 'ok':<7}{name:<20}{tried:>10} inputs{cpu:>8.1f} s of CPU", flush=True)
        if found:
            problems += 1
            print(found, flush=True)
    print(f"{inputs:.0f} inputs, {total:.0f} s of CPU, {problems} of {len(names)} targets raised")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
