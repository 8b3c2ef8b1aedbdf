"""Faults in random order under a ledger's load, for as long as one asks. ``make soak`` calls this.

Prints the seed, with which the same order comes again, and each step with how long it took until all was well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import statistics
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("shared", "netns")]

from agent_lab import Agent
from books import judge
from faults import CUTTING, HARMLESS, Watch, away
from laptops import Stage

GAP = 1.0
"""Seconds between two steps at most."""
STEPS = (*HARMLESS, *CUTTING)


def soak(seconds, *, seed, rate, slow_seconds=10.0, say=print, steps=STEPS, times=0, requests=0):
    """Run for so many seconds, or a little longer: everything that is wrong, a line each.

    Each kind of step comes once before any comes again. With ``times`` it ends after so many steps, which are spread
    over ``requests``.
    """
    say(f"seed {seed}, {rate} requests/s, {f'{times} steps' if times else f'{seconds:g} s'}")
    dice = random.Random(seed)
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(Stage(agent)) as stage:
            threads = max(10, rate // 25)
            with stage.load(rate=rate, threads=threads, slow=4, slow_seconds=slow_seconds, most=100) as load:
                load.wait_for(stage.bob.name, stage.bob.name)
                watch, began, turn, done = Watch(stage, load), time.monotonic(), [], 0
                while done < times if times else time.monotonic() - began < seconds:
                    if times:
                        missing = requests * (done + 1) // (times + 1) - len(load.entries)
                        load.wait(max(1, missing), 600)
                    turn = turn or dice.sample(steps, len(steps))
                    step = turn.pop()
                    at = time.monotonic()
                    watch.run(step)
                    done += 1
                    say(f"{at - began:7.1f} s  {step.__name__:20} {time.monotonic() - at:5.1f} s")
                    if not times:
                        time.sleep(dice.uniform(0, GAP))
                load.wait(max(1, requests - len(load.entries)), 600)
                took = time.monotonic() - began
            watch.ended()
            seen = defaultdict(list)
            for record in stage.books.records:
                seen[record.id].append(record.side)
            wrong = [
                f"failed, sent at {entry.at - began:.2f} s, seen by {seen[entry.id] or 'nobody'}: {entry}"
                for entry in watch.harmed()
            ]
            wrong += judge(load, stage.books, replays=not set(steps) <= set(HARMLESS))
            outcomes = Counter(f"{entry.outcome}" for entry in load.entries)
            say(
                f"{len(load.entries)} requests in {took:.0f} s: {dict(outcomes)}; "
                f"bob away {away(load, stage.bob.name):.2f} s at most; agents answer after "
                f"{statistics.median(agent.starts):.2f} s (median), {max(agent.starts):.2f} s at most; "
                f"load average {os.getloadavg()[0]:.1f}"
            )
            if wrong:
                say(agent.words())
    return wrong


def main():
    names = {step.__name__: step for step in STEPS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--rate", type=int, default=300, help="requests a second")
    parser.add_argument("--faults", default=",".join(names), help="which: names, separated by commas")
    parser.add_argument("--times", type=int, default=0, help="end after so many faults, whatever the seconds")
    parser.add_argument(
        "--requests", type=int, default=0, help="with --times: at least so many, spread over them"
    )
    args = parser.parse_args()
    steps = [names[name] for name in args.faults.split(",")]
    more = {"times": args.times, "requests": args.requests}
    wrong = soak(args.seconds, seed=args.seed, rate=args.rate, steps=steps, **more)
    for line in wrong[:100]:
        print(line)
    print(f"{len(wrong)} things are wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
