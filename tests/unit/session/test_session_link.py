import asyncio
import itertools
import time

import pytest

from tpnet.model import NotThere, TpnetError
from tpnet.session import link as link_module
from tpnet.session.link import AgentPeer, Link, parse_endpoint
from tpnet.tunnel import KeyPair, PeerStats, address_of, prefix_of

KEY = KeyPair().public
FIRST, SECOND = ("10.0.0.1", 21820), ("fd00::2", 21820)
AGENT = AgentPeer(KEY, 7, ("10.0.0.1:21820", "[fd00::2]:21820"))


class FakeSocket:
    def __init__(self, error=None):
        self.to, self.error = None, error

    def connect(self, to):
        if self.error:
            raise self.error
        self.to = to


class FakeEnd:
    """``tried``: the endpoints of each new peer, ``None`` for one without."""

    def __init__(self):
        self.tried, self.moved, self.removed = [], [], []
        self.shaken, self.at = 0.0, None
        self.sock = FakeSocket()

    def socket(self, kind):
        return self.sock

    def add_peer(self, key, *, endpoint=None, keepalive=0):
        assert key == KEY
        self.tried.append(endpoint)

    def set_endpoint(self, key, endpoint, *, keepalive=0):
        self.moved.append(endpoint)

    def peers(self):
        return {KEY: PeerStats(KEY, None, self.at, self.shaken, 0, 0)} if self.tried else {}

    def remove_peer(self, key):
        self.removed.append(key)


class FakePulse:
    """``answers``: the endpoint at which the agent is, if at any."""

    def __init__(self, end, changed, answers):
        self.end, self.changed, self.answers = end, changed, answers
        self.up, self.gone, self.rtt_ms, self.silent_for = False, False, 0.0, 0.0
        self.closed = False

    async def start(self):
        pass

    def send_now(self):
        if self.answers is not None and self.end.tried[-1] == self.answers and not self.up:
            asyncio.get_running_loop().call_soon(self.hear)

    def hear(self):
        self.up, self.silent_for = True, 0.0
        self.changed(True)

    def lose(self):
        self.up, self.silent_for = False, 5.0
        self.changed(False)

    def close(self):
        self.closed = True


@pytest.fixture
def scene(monkeypatch):
    """Runs a coroutine with a link that has started, its end, its pulse, and what it told."""
    monkeypatch.setattr(link_module, "_ENDPOINT_SECONDS", 0.05)

    def run(story, answers=None, agent=AGENT):
        async def main():
            end, said, pulses = FakeEnd(), [], []

            def pulse(sock, changed, path_found, moves):
                pulses.append(FakePulse(end, changed, answers))
                pulses[-1].moves = moves
                return pulses[-1]

            monkeypatch.setattr(link_module, "HeartbeatSender", pulse)
            link = Link(end, agent, said.append)
            assert not link.up
            await link.start()
            await story(link, end, pulses[0], said)

        asyncio.run(main())

    return run


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("10.0.0.1:1", ("10.0.0.1", 1)), ("[fd00::2]:21820", SECOND)],
)
def test_endpoints(text, endpoint):
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        ":80",
        "10.0.0.1:",
        "10.0.0.1:x",
        "10.0.0.1:-1",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "node:5",
        "::1\nallowed_ip=::/0:5",
    ],
)
def test_other_endpoints_are_refused(text):
    with pytest.raises(TpnetError, match="an endpoint that is none"):
        parse_endpoint(text)


def test_the_agents_address_follows_from_its_key(scene):
    async def story(link, end, pulse, said):
        assert end.sock.to == (str(address_of(KEY, prefix_of())), 7)
        assert link.agent.address == address_of(KEY, prefix_of())

    scene(story)


def test_the_route_is_there_before_the_socket_is_connected_and_the_first_endpoint_is_tried(scene):
    async def story(link, end, pulse, said):
        assert end.tried == [None, FIRST]
        assert link.endpoint == FIRST

    scene(story)


def test_an_agent_without_endpoints_is_not_tried(scene):
    async def story(link, end, pulse, said):
        link.nudge()
        assert end.tried == [None]
        assert link.endpoint is None

    scene(story, agent=AgentPeer(KEY, 7, ()))


def test_a_tunnel_that_cannot_be_used_is_a_sentence():
    async def main():
        end = FakeEnd()
        end.sock = FakeSocket(OSError(101, "Network is unreachable"))
        end.sock.close = lambda: None
        link = Link(end, AGENT, lambda up: None)
        with pytest.raises(TpnetError, match="The tunnel cannot be used: Network is unreachable"):
            await link.start()
        link.close()

    asyncio.run(main())


def test_the_endpoint_that_answers_is_kept(scene):
    async def story(link, end, pulse, said):
        await link.reach()
        assert link.endpoint == SECOND
        assert said == [True]
        assert link.up
        assert link.ever_up

    scene(story, answers=SECOND)


def test_an_agent_that_answers_nowhere_is_told_with_all_that_was_tried(scene):
    async def story(link, end, pulse, said):
        with pytest.raises(NotThere, match=r"UDP to 10\.0\.0\.1:21820, \[fd00::2\]:21820") as caught:
            await link.reach()
        assert "firewall" in caught.value.hint
        assert set(end.tried) == {None, FIRST, SECOND}

    scene(story)


def test_until_it_has_answered_each_endpoint_has_several_handshakes(scene):
    async def story(link, end, pulse, said):
        for _ in range(12):
            link.nudge()
        tried = end.tried[2:]
        assert tried.count(FIRST) >= 4
        assert tried.count(SECOND) >= 4
        assert sum(one != other for one, other in itertools.pairwise(tried)) <= 3

    scene(story)


def test_after_a_handshake_there_is_time_for_the_answer(scene):
    async def story(link, end, pulse, said):
        before = len(end.tried)
        end.shaken = time.time() - 0.5
        link.nudge()
        assert len(end.tried) == before
        end.shaken -= 1
        link.nudge()
        assert len(end.tried) == before + 1

    scene(story)


def test_an_agent_that_answers_is_left_alone(scene):
    async def story(link, end, pulse, said):
        await link.reach()
        before = list(end.tried)
        pulse.silent_for = 0.6
        link.nudge()
        assert (end.tried, end.moved) == (before, [])

    scene(story, answers=FIRST)


def test_a_short_silence_chooses_the_source_address_anew_and_a_long_one_the_endpoint(scene, monkeypatch):
    async def story(link, end, pulse, said):
        await link.reach()
        before = len(end.tried)
        pulse.silent_for = 1.1
        link.nudge()
        assert end.moved == [FIRST]
        pulse.lose()
        assert said == [True, False]
        link.nudge()
        assert end.moved == [FIRST, FIRST]
        assert len(end.tried) == before
        monkeypatch.setattr(link_module, "_ANEW_AFTER", 0.0)
        link.nudge()
        link.nudge()
        assert set(end.tried[before:]) == {FIRST, SECOND}

    scene(story, answers=FIRST)


def test_closed_it_is_down_and_forgets_the_peer_only_if_told(scene):
    async def story(link, end, pulse, said):
        await link.reach()
        link.close()
        link.close()
        assert pulse.closed
        assert (link.up, link.rtt_ms, link.silent_for, end.removed) == (False, 0.0, 0.0, [])
        link.nudge()
        link.close(forget=True)
        assert end.removed == [KEY]

    scene(story, answers=FIRST)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(link_module, "_FOLLOW_AT", (0.0, 0.01))


def test_an_agent_that_moves_is_sent_a_packet_where_it_will_be_again_and_again(scene, soon):
    async def story(link, end, pulse, said):
        await link.reach()
        end.at = "10.0.0.9", 21820  # where it is heard, which is not what it said
        pulse.moves(40_000)
        link.close()  # the next agent's is made
        await asyncio.sleep(0.05)
        assert end.moved == [("10.0.0.9", 40_000)] * 4

    scene(story, answers=FIRST)


@pytest.mark.parametrize("how", ["heard", "forgotten", "never heard"])
def test_nobody_is_sent_anything_at_a_port_without_need(scene, soon, how):
    async def story(link, end, pulse, said):
        end.at = None if how == "never heard" else FIRST
        pulse.moves(40_000)
        if how == "heard":
            pulse.moves(0)
        elif how == "forgotten":
            link.close(forget=True)
        await asyncio.sleep(0.05)
        assert end.moved == []

    scene(story, answers=FIRST)


def test_an_agent_that_has_said_goodbye_is_not_looked_for_where_the_next_one_will_be(scene, monkeypatch):
    monkeypatch.setattr(link_module, "_ANEW_AFTER", 0.0)

    async def story(link, end, pulse, said):
        await link.reach()
        before = list(end.tried)
        pulse.gone = True
        pulse.lose()
        for _ in range(3):
            link.nudge()
        assert (end.tried, end.moved) == (before, [])

    scene(story, answers=FIRST)
