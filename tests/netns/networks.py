"""A network that loses packets: nftables in a namespace of the test's own."""

from __future__ import annotations

import contextlib
import subprocess

TABLE = "tpnet_test"


@contextlib.contextmanager
def dropped(netns, what):
    """Packets that a namespace sends or is sent, and that nftables' expression ``what`` matches, are lost."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; {what} drop; }}\n"
        for hook in ("input", "output")
    )
    nft(netns, f"table inet {TABLE} {{\n{chains}}}")
    try:
        yield
    finally:
        nft(netns, f"delete table inet {TABLE}")


def nft(netns, rules):
    with netns.entered():
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
