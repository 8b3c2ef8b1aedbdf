import struct
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from tpnet.tunnel.liveness import DEAD_AFTER, INTERVAL, QUIET_AFTER, Liveness, Pulse

BOB, EVE = IPv6Address("fd00::b"), IPv6Address("fd00::e")


def watched():
    state = Liveness()
    state.expect(BOB)
    return state


def test_heartbeat_is_sixteen_bytes_and_its_echo_differs_in_kind_alone():
    ask = Pulse().ask(1.5)
    echo, _ = watched().datagram(ask, BOB, 0)
    assert ask == b"tH" + struct.pack("!HIH6x", 0, 0, 1280)
    assert echo == b"tE" + ask[2:]


def test_up_at_the_first_heartbeat_down_after_two_seconds_without():
    state, pulse = watched(), Pulse()
    assert not state.get(BOB).up
    assert state.datagram(pulse.ask(10), BOB, 10)[1] is True
    assert state.datagram(pulse.ask(10.5), BOB, 10.5)[1] is False
    assert state.check(10.5 + DEAD_AFTER - 0.01) == []
    assert state.get(BOB).up
    assert state.check(10.5 + DEAD_AFTER) == [BOB]
    assert state.check(10.5 + DEAD_AFTER + 1) == [], "told once"
    assert not state.get(BOB).up
    assert state.datagram(pulse.ask(20), BOB, 20)[1] is True


def test_after_a_pause_of_the_watcher_nobody_is_gone_before_he_was_listened_to():
    state, pulse = watched(), Pulse()
    state.datagram(pulse.ask(10), BOB, 10)
    for tenths in range(1, 6):
        assert state.check(10 + tenths / 10) == []
    assert state.check(20) == [], "what has come meanwhile is not read yet"
    assert state.get(BOB).up
    state.datagram(pulse.ask(20.05), BOB, 20.05)
    assert state.check(20.1) == []
    assert state.check(30) == []
    assert state.check(30.1) == [BOB], "nothing had come"


def test_quiet_once_a_heartbeat_is_missing_and_until_one_is_heard_or_it_is_down():
    state, pulse = watched(), Pulse()
    assert state.quiet(100) == [], "one that was never heard is no more than down"
    state.datagram(pulse.ask(10), BOB, 10)
    assert state.quiet(10 + QUIET_AFTER - 0.01) == []
    assert state.quiet(10.01 + QUIET_AFTER) == [BOB]
    assert state.get(BOB).quiet
    assert state.quiet(10 + QUIET_AFTER + 0.1) == [], "told once"
    state.datagram(pulse.ask(11), BOB, 11)
    assert state.quiet(11) == [BOB]
    assert not state.get(BOB).quiet
    state.quiet(12)
    state.check(11 + DEAD_AFTER)
    assert state.quiet(11 + DEAD_AFTER) == [BOB]
    assert not state.get(BOB).quiet, "down says it all"


def test_a_few_lost_heartbeats_do_no_harm():
    state, pulse = watched(), Pulse()
    now = 0.0
    state.datagram(pulse.ask(now), BOB, now)
    for _ in range(20):
        now += 3 * INTERVAL
        assert state.check(now) == []
        state.datagram(pulse.ask(now), BOB, now)


def test_unknown_senders_get_no_echo_and_do_not_exist():
    state = watched()
    assert state.datagram(Pulse().ask(0), EVE, 0) == (None, False)
    assert not state.get(EVE).up
    state.forget(BOB)
    state.forget(BOB)
    assert state.datagram(Pulse().ask(0), BOB, 0) == (None, False)
    assert state.check(100) == []


def test_expected_anew_is_down_until_heard():
    state = watched()
    state.datagram(Pulse().ask(0), BOB, 0)
    state.expect(BOB)
    assert not state.get(BOB).up


@given(
    st.binary(max_size=64).filter(lambda data: len(data) < 16 or data[:2] != b"tH")
    | st.integers(1233, 2000).map(lambda size: b"tH".ljust(size, b"\0"))
)
def test_anything_else_is_ignored(data):
    state = watched()
    assert state.datagram(data, BOB, 0) == (None, False)
    assert not state.get(BOB).up


@given(st.binary(min_size=14, max_size=14) | st.integers(14, 1230).map(bytes))
def test_an_echo_is_as_long_as_what_asked_for_it(rest):
    echo, _ = watched().datagram(b"tH" + rest, BOB, 0)
    assert echo == b"tE" + rest


def test_round_trip_is_measured_by_the_sender_and_told_with_the_next_heartbeat():
    state, pulse = watched(), Pulse()
    echo, _ = state.datagram(pulse.ask(1.0), BOB, 0)
    assert pulse.datagram(echo, 1.0123) is True
    assert round(pulse.rtt_ms, 1) == 12.3
    state.datagram(pulse.ask(1.5), BOB, 1)
    assert state.get(BOB).rtt_ms == 12.3


def test_round_trip_below_the_unit_is_not_told_as_unknown_and_a_long_one_is_capped():
    state, pulse = watched(), Pulse()
    for took, told in ((0.00001, 0.1), (60.0, 6553.5)):
        echo, _ = state.datagram(pulse.ask(0), BOB, 0)
        pulse.datagram(echo, took)
        state.datagram(pulse.ask(0), BOB, 0)
        assert state.get(BOB).rtt_ms == told


def test_only_an_echo_of_ours_counts_and_only_once():
    pulse = Pulse()
    ask = pulse.ask(0)
    echo = b"tE" + ask[2:]
    assert pulse.datagram(b"tE" + struct.pack("!HIQ", 0, 99, 0), 0.1) is False
    assert pulse.datagram(ask, 0.1) is False
    assert pulse.datagram(echo[:-1], 0.1) is False
    assert not pulse.up
    assert pulse.datagram(echo, 0.1) is True
    assert pulse.check(0.1 + DEAD_AFTER) is True
    assert pulse.datagram(echo, 0.2 + DEAD_AFTER) is False, "a replay proves nothing"
    assert not pulse.up
    assert pulse.check(100) is False, "told once"


def test_goodbye_is_known_at_once_and_undone_by_the_next_echo():
    pulse = Pulse()
    goodbye = b"tG" + bytes(14)
    assert pulse.datagram(goodbye, 0) is False, "of one that was not up there is nothing to tell"
    assert pulse.gone
    pulse.datagram(b"tE" + pulse.ask(0)[2:], 0.1)
    assert (pulse.up, pulse.gone) == (True, False)
    late = b"tE" + pulse.ask(0.2)[2:]
    assert pulse.datagram(goodbye, 0.3) is True
    assert (pulse.up, pulse.gone) == (False, True)
    assert pulse.datagram(late, 0.4) is False, "it was on its way when the goodbye came"
    assert pulse.datagram(goodbye, 0.5) is False, "told once"
    assert pulse.datagram(b"tE" + pulse.ask(1)[2:], 1.1) is True
    assert (pulse.up, pulse.gone) == (True, False)


def test_goodbye_says_where_the_agent_moves_and_again_that_it_is_there():
    pulse = Pulse()
    pulse.datagram(b"tG" + struct.pack("!H", 40_000) + bytes(12), 0)
    assert (pulse.gone, pulse.moves_to) == (True, 40_000)
    pulse.datagram(b"tG" + bytes(14), 0.1)
    assert (pulse.gone, pulse.moves_to) == (True, 0)
    pulse = Pulse()
    pulse.datagram(b"tG" + bytes(15), 0)
    assert not pulse.gone, "of another size it is none"


def test_probe_has_the_size_that_is_asked_and_its_echo_counts_only_with_that():
    state, pulse = watched(), Pulse()
    pulse.datagram(state.datagram(pulse.ask(0), BOB, 0)[0], 0.01)
    asks = pulse.probes(10)
    assert [len(ask) for ask in asks] == [1280 - 48, 16]
    cut = b"tE" + asks[0][2:16]
    pulse.datagram(cut, 10.01)
    assert pulse.path._passed == 0, "what came back is not what was sent"
    echo, _ = state.datagram(asks[0], BOB, 10)
    assert len(echo) == len(asks[0])
    pulse.datagram(echo, 10.01)
    assert pulse.path._passed == 1280


def test_agent_is_told_the_size_of_the_path_and_gives_each_change_once():
    state, pulse = watched(), Pulse()
    assert state.paths(0) == []
    state.datagram(pulse.ask(0), BOB, 0.1)
    assert state.paths(2) == [(BOB, 1280)]
    assert state.paths(4) == []
    pulse.path.size = 1232
    state.datagram(pulse.ask(5), BOB, 5)
    assert state.get(BOB).path == 1232
    assert state.paths(5) == [(BOB, 1232)]
    pulse.path.size = 1280
    state.datagram(pulse.ask(5.1), BOB, 5.1)
    assert state.paths(5.2) == [], "once a second at most"
    assert state.paths(6.1) == [(BOB, 1280)]


@given(st.integers(0, 0xFFFF))
def test_size_that_is_none_means_the_smallest(size):
    state = watched()
    state.datagram(b"tH" + struct.pack("!HIH6x", 0, 0, size), BOB, 0)
    assert state.get(BOB).path == (size if 560 <= size <= 1280 else 0)


def test_unanswered_heartbeats_are_forgotten():
    pulse = Pulse()
    first = pulse.ask(0)
    for number in range(1000):
        pulse.ask(number)
    assert len(pulse._asked) <= 128
    assert pulse.datagram(b"tE" + first[2:], 1000) is False
