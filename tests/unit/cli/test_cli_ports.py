import pytest

from tpnet.model import InvalidInput, NotThere, TargetInfo
from tpnet_cli.ports import check_listening, choose_port, common_ports, parse_port

ONE = [TargetInfo("netns/a", (80,))]
TWO = [TargetInfo("netns/a", (80, 9000)), TargetInfo("netns/b", (9000, 80, 22))]


@pytest.mark.parametrize(
    ("text", "ports"), [("8080", (8080, None)), ("8080:80", (8080, 80)), ("1:65535", (1, 65535))]
)
def test_port_flag(text, ports):
    assert parse_port(text) == ports


@pytest.mark.parametrize("text", ["", "80:", ":80", "a", "1:2:3", "-1", "80 ", "\uff18", "9" * 5000])
def test_port_flag_that_is_none(text):
    with pytest.raises(InvalidInput, match="a port number is wanted, or two with a colon between") as error:
        parse_port(text)
    assert "8080:80" in error.value.hint


@pytest.mark.parametrize(
    ("text", "port"), [("70000", 70000), ("0", 0), ("65536:80", 65536), ("80:99999", 99999), ("80:0", 0)]
)
def test_port_that_there_is_not(text, port):
    with pytest.raises(
        InvalidInput, match=f"^--port={text}: there is no port {port}; they go from 1 to 65535"
    ):
        parse_port(text)


def test_a_port_that_is_named_must_listen_in_every_target():
    targets = [*TWO, TargetInfo("netns/c", (80,), loopback=(9000, 9001))]
    check_listening(80, targets)
    check_listening(9000, targets)
    with pytest.raises(NotThere, match=r"^Nothing listens on port 22 of netns/a\.") as error:
        check_listening(22, targets)
    assert error.value.hint == "Listening there: 80, 9000."
    with pytest.raises(NotThere, match="netns/d") as error:
        check_listening(80, [TargetInfo("netns/d")])
    assert "start the app first" in error.value.hint


def test_common_ports_are_those_of_every_target():
    assert common_ports(TWO) == [80, 9000]
    assert common_ports([]) == []


def test_the_only_port_is_meant_whatever_the_local_one():
    assert choose_port("a", ONE, None, None) == 80
    assert choose_port("a", ONE, 8080, None) == 80


def test_the_local_number_is_meant_where_the_target_has_it():
    assert choose_port("a", TWO, 9000, None) == 9000


def test_of_several_ports_a_terminal_is_asked():
    assert choose_port("a", TWO, None, lambda ports: ports[-1]) == 9000


def test_of_several_ports_a_script_is_told_their_names():
    with pytest.raises(InvalidInput, match="listens on 80 and 9000") as error:
        choose_port("a", TWO, 8080, None)
    assert "--port" in error.value.hint


def test_nothing_listens():
    with pytest.raises(NotThere, match="Nothing listens in a"):
        choose_port("a", [TargetInfo("netns/a")], 80, None)
    with pytest.raises(NotThere, match="Nothing that others can reach listens in a") as error:
        choose_port("a", [TargetInfo("netns/a", loopback=(80,))], 80, None)
    assert "--port 8080:80" in error.value.hint
    with pytest.raises(NotThere, match="no listening port in common: netns/a on 80; netns/b on nothing"):
        choose_port("a,b", [*ONE, TargetInfo("netns/b")], None, None)
