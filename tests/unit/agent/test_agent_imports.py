"""An agent is to be there half a second after it was started: it imports nothing large that it does not use."""

import subprocess
import sys

import pytest

NEVER = {
    "kubernetes",
    "pyroute2.ndb",
    "pyroute2.nftables",
    "pyroute2.conntrack",
    "scapy",
    "bcc",
    "yaml",
    "rich",
}


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("tpnet.agent.supervisor", {"pydantic", "click"}),
        ("tpnet.agent.cluster.controller", {"pydantic", "click"}),
    ],
)
def test_an_agent_imports_nothing_large_that_it_does_not_use(module, more):
    code = f"import sys, {module}; print(*sorted({NEVER | more} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
