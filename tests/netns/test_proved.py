"""Whatever leads to a pod's processes: the namespace that is opened has the pod's address, or nothing is redirected."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from tpnet.agent import targets as module
from tpnet.agent.namespace import every_address, prove
from tpnet.agent.state import StateFile
from tpnet.agent.targets import Targets
from tpnet.datapath.netns import NetNs
from tpnet.datapath.target import Target
from tpnet.model import NotThere, Refused

PODS = 4
ROUNDS = 40


class Book:
    """What the API server says of pods, which their creators may have written."""

    def __init__(self):
        self.said = {}

    def addresses(self, name):
        return self.said.get(name, ())

    def probes(self, key):
        return ()


@pytest.fixture
def many(make_podnet):
    return make_podnet(PODS)


def test_the_namespace_opened_is_always_the_pod_s_whose_name_leads_there(
    many, program, signs, monkeypatch, tmp_path
):
    """The way from a uid to processes is a liar here, as somebody may make it: it leads anywhere."""
    rng = random.Random(1)
    book, leads = Book(), {}
    workers = SimpleNamespace(send=lambda *_: None, ready=False, silent=0.0)

    def resolve(name):
        if leads[name] is None:
            raise NotThere(f"No process of {name} runs on this machine.")
        return Target(name, NetNs.from_name(leads[name].name), lambda: True)

    monkeypatch.setattr(module, "resolve", resolve)
    opened = refused = 0

    async def rounds():
        nonlocal opened, refused
        targets = Targets(signs, workers, StateFile(tmp_path), book)
        targets.program = program
        for _ in range(ROUNDS):
            wanted = {}
            taken = rng.sample(many.pods, PODS)  # a namespace is one pod's at most
            for number, pod in enumerate(many.pods):
                name = f"pod/{number}"
                leads[name] = rng.choice([pod, pod, taken[number], None])
                other = rng.choice(many.pods)
                book.said[name] = rng.choice(
                    [
                        (pod.address[4],),
                        (pod.address[4], pod.address[6].replace("::", ":0:0:0:0:0:")),
                        (pod.address[4], other.address[6]),
                        (other.address[4],),
                        ("127.0.0.9",), ("not an address",), (),
                    ]
                )  # fmt: skip
                if rng.random() < 0.8:
                    wanted[name, 8080] = ()
            if len({id(one) for one in leads.values() if one}) < sum(map(bool, leads.values())):
                continue
            await targets.reconcile(lambda wanted=wanted: wanted)
            there = {door.name: door for door in targets.doors()}
            for name, _ in wanted:
                has = set(leads[name].netns.run(every_address)) if leads[name] else set()
                proved = (
                    bool(book.said[name])
                    and {one.replace(":0:0:0:0:0:", "::") for one in book.said[name]} <= has
                )
                assert (name in there) == proved, (name, book.said[name], has)
                if proved:
                    assert there[name].namespace.netns.key == leads[name].netns.key
                    opened += 1
                elif leads[name]:
                    why = targets.failures[name, 8080]
                    assert isinstance(why, Refused)
                    assert "is not its pod's" in why.message
                    refused += 1
            await targets.reconcile(dict)
            for door in targets.left():
                door.over.set()
            await targets.reconcile(dict)
        await targets.close(0)

    asyncio.run(rounds())
    assert opened > 5
    assert refused > 5


def test_the_reason_names_both_addresses(many):
    one, other = many.pods[:2]
    with pytest.raises(
        Refused,
        match=rf"that has the address {one.address[4]}, {one.address[6]}, the namespace {other.address[4]}",
    ):
        prove("pod/x", other.netns, one.address.values())
    prove("pod/x", one.netns, one.address.values())
    prove("netns/x", other.netns, None)


def test_a_pod_without_an_address_is_refused(many):
    with pytest.raises(Refused, match="not known"):
        prove("pod/x", many.pod.netns, ())
