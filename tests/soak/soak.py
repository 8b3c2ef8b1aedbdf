"""Faults of every kind, in random order, under a ledger's load, for as long as one asks. ``make soak`` calls this.

Prints the seed, with which the same order comes again, and each step with how long it took until all was well.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("shared", "netns")]

from agent_lab import Agent
from books import judge
from faults import CUTTING, HARMLESS, Watch, away
from laptops import Stage

GAP = 1.0
"""Seconds between two steps at most."""


def soak(seconds, *, seed, rate, slow_seconds=10.0, say=print, steps=(*HARMLESS, *CUTTING)):
    """Run for so many seconds, or a little longer: everything that is wrong, a line each.

    Each kind of step comes once before any comes again.
    """
    say(f"seed {seed}, {seconds:g} s, {rate} requests/s")
    dice = random.Random(seed)
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(Stage(agent)) as stage:
            with stage.load(rate=rate, slow=4, slow_seconds=slow_seconds, most=100) as load:
                load.wait_for(stage.bob.name, stage.bob.name)
                watch, began, turn = Watch(stage, load), time.monotonic(), []
                while time.monotonic() - began < seconds:
                    turn = turn or dice.sample(steps, len(steps))
                    step = turn.pop()
                    at = time.monotonic()
                    watch.run(step)
                    say(f"{at - began:7.1f} s  {step.__name__:20} {time.monotonic() - at:5.1f} s")
                    time.sleep(dice.uniform(0, GAP))
            wrong = [f"failed: {entry}" for entry in watch.harmed()]
            wrong += judge(load, stage.books, replays=True)
            outcomes = Counter(f"{entry.outcome}" for entry in load.entries)
            say(
                f"{len(load.entries)} requests: {dict(outcomes)}; bob away {away(load, stage.bob.name):.1f} s at most"
            )
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--rate", type=int, default=300, help="requests a second")
    args = parser.parse_args()
    wrong = soak(args.seconds, seed=args.seed, rate=args.rate)
    for line in wrong[:100]:
        print(line)
    print(f"{len(wrong)} things are wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
