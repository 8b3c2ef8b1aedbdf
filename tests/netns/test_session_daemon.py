import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from clock import quickest
from session_lab import Computer, kill, run_daemon, wait_until
from tunnel_lab import change_address, gone, receive

from tpnet.model import Conflict, InvalidInput, NotThere
from tpnet.session.client import SessionClient


@pytest.fixture
def computer(tmp_path):
    computer = Computer(tmp_path)
    yield computer
    computer.close()


def exchange(agent, handler, name="shop"):
    """A request to the handler and its answer, through everything."""
    with agent.dial(name) as client:
        client.sendall(b"question")
        assert receive(client, 1) == b"\x00"
        with handler.accept()[0] as served:
            assert receive(served, 8) == b"question"
            served.sendall(b"answer")
        assert receive(client, 7) == b"answer"


def test_session_carries_a_connection_to_the_handler_and_back(computer):
    handler = computer.handler()
    session = computer.ensure()
    status = session.add(computer.draft())
    assert status.handler_up
    assert status.session_up
    assert status.intercept.session == f"{computer.user}@{socket.gethostname()}"
    assert status.intercept.tunnel_port == 20000
    exchange(computer.agent, handler)
    info = session.info()
    assert info["up"]
    assert info["rtt_ms"] > 0
    assert info["user"] == computer.user
    assert info["agent_address"] == str(computer.agent.end.address)
    assert info["endpoint"] == f"{computer.node_ip}:21820"
    assert "WireGuard" in info["wireguard"]
    (intercept,) = info["intercepts"]
    assert intercept["name"] == "shop"
    assert intercept["handler_up"]
    assert intercept["total"] == 1
    assert intercept["problem"] == ""
    assert Path(info["log"]).stat().st_mode & 0o777 == 0o600
    assert session.paths.socket.stat().st_mode & 0o777 == 0o600


def test_one_daemon_serves_every_intercept_and_ends_with_the_last(computer):
    handler = computer.handler()
    session = computer.ensure()
    pid = session.info()["pid"]
    assert computer.ensure().info()["pid"] == pid
    session.add(computer.draft("one"))
    session.add(computer.draft("two"))
    ports = {i.tunnel_port for i in computer.agent.intercepts.values()}
    assert ports == {20000, 20001}
    assert session.remove("one") == {"draining": 0, "last": False, "told": True}
    exchange(computer.agent, handler, "two")
    assert session.remove("two") == {"draining": 0, "last": True, "told": True}
    assert wait_until(lambda: gone(pid))
    assert not session.paths.socket.exists()
    assert computer.agent.sessions == {}
    with pytest.raises(NotThere, match="no session on this computer"):
        session.info()


def test_f01_missing_handler_is_reported_at_once_and_answered_with_the_refusal_byte(computer):
    session = computer.ensure()
    status = session.add(computer.draft())
    assert not status.handler_up
    name = status.intercept.session
    assert computer.agent.handlers[name] == {"shop": False}
    refused = []

    def refusal():
        started = time.monotonic()
        with computer.agent.dial("shop") as client:
            client.sendall(b"question")
            refused.append(receive(client, 2))
        return time.monotonic() - started

    assert quickest(0.05, refusal) < 0.05
    assert set(refused) == {b"\x01"}
    handler = computer.handler()
    assert wait_until(lambda: computer.agent.handlers[name] == {"shop": True})
    exchange(computer.agent, handler)
    handler.close()
    assert wait_until(lambda: computer.agent.handlers[name] == {"shop": False})
    assert session.info()["intercepts"][0]["refused"] == len(refused)


def test_failed_dial_is_looked_into_at_once(computer):
    session = computer.ensure()
    name = session.add(computer.draft()).intercept.session

    def known_after():
        handler = computer.handler()
        assert wait_until(lambda: computer.agent.handlers[name] == {"shop": True})
        handler.close()
        with computer.agent.dial("shop") as client:
            assert receive(client, 2) == b"\x01"
        dialled = time.monotonic()
        assert wait_until(lambda: computer.agent.handlers[name] == {"shop": False})
        return time.monotonic() - dialled

    assert quickest(0.4, known_after) < 0.4


def test_t05_only_the_declared_ports_are_open_and_only_to_the_agent(computer):
    computer.handler()
    session = computer.ensure()
    first, second = (session.add(computer.draft(name)).intercept.tunnel_port for name in ("one", "two"))
    address = session.info()["address"]
    session.remove("one")
    assert wait_until(lambda: open_ports(computer.agent.end, address, [first]) == [])
    scanned = [22, 80, 443, 8080, 21820, 21821, *range(19980, 20040), 65535]
    assert open_ports(computer.agent.end, address, scanned) == [second]


def open_ports(end, address, ports):
    found = []
    for port in ports:
        with end.socket() as sock:
            sock.settimeout(3)
            if sock.connect_ex((address, port)) == 0:
                found.append(port)
    return found


def test_refused_intercept_leaves_nothing(computer):
    session = computer.ensure()
    computer.agent.refuse = Conflict("alice has the same rules on netns/shop:80.", "Ask her.")
    with pytest.raises(Conflict, match="alice has the same rules") as caught:
        session.add(computer.draft())
    assert caught.value.hint == "Ask her."
    assert session.info()["intercepts"] == []
    computer.agent.refuse = None
    session.add(computer.draft())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"handler": "my host:80"}, InvalidInput, "is not HOST:PORT"),
        ({"handler": "dev-box"}, InvalidInput, "names no port"),
        ({"user": "eve"}, InvalidInput, "not of eve"),
    ],
)
def test_malformed_draft_is_refused(computer, change, error, words):
    session = computer.ensure()
    with pytest.raises(error, match=words):
        session.add(computer.draft(**change))
    session.quit()


def test_names_are_taken_once_and_unknown_ones_are_not_there(computer):
    session = computer.ensure()
    session.add(computer.draft())
    with pytest.raises(Conflict, match="an intercept shop already"):
        session.add(computer.draft())
    with pytest.raises(NotThere, match="no intercept nothing"):
        session.remove("nothing")
    with pytest.raises(Conflict, match=r"has a session .* already"):
        computer.ensure(name="other")


def test_daemon_nobody_gives_an_intercept_ends_by_itself(computer):
    pid = computer.ensure().info()["pid"]
    assert wait_until(lambda: gone(pid), 30)
    assert computer.agent.sessions == {}


def test_no_agent_is_an_error_of_the_start_and_leaves_nothing(computer):
    computer.agent.close()
    with pytest.raises(NotThere, match="No agent answers"):
        computer.ensure()
    folder = computer.run_dir / "sessions"
    assert not list(folder.glob("*.sock"))


def test_agent_behind_a_firewall_is_an_error_that_names_the_port(computer):
    computer.agent.endpoints = (f"{computer.node_ip}:9",)
    with pytest.raises(NotThere, match=re.escape(f"UDP to {computer.node_ip}:9")):
        computer.ensure()
    assert computer.agent.sessions == {}


def test_second_endpoint_is_tried(computer):
    computer.agent.endpoints = (f"{computer.node_ip}:9", f"{computer.node_ip}:21820")
    assert computer.ensure().info()["endpoint"] == f"{computer.node_ip}:21820"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_everything(computer, number):
    session = computer.ensure()
    session.add(computer.draft())
    pid = session.info()["pid"]
    os.kill(pid, number)
    assert wait_until(lambda: gone(pid))
    assert computer.agent.sessions == {}
    assert computer.agent.intercepts == {}
    assert not session.paths.socket.exists()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_daemon_leaves_no_process_and_its_place_can_be_taken(computer):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft())
    pid = session.info()["pid"]
    below = children(pid)
    kill(pid)
    assert wait_until(lambda: gone(pid) and all(gone(child) for child in below))
    address = str(computer.agent.sessions[f"{computer.user}@{socket.gethostname()}"][1])
    assert wait_until(lambda: (address, False) in [news[1:] for news in computer.agent.news])
    again = computer.ensure()
    again.add(computer.draft())
    exchange(computer.agent, handler)


def test_client_that_goes_away_during_add_leaves_no_intercept(computer):
    session = computer.ensure()
    session.add(computer.draft("other"))
    from tpnet.control.local.protocol import encode_call
    from tpnet.model.codec import encode

    pid = session.info()["pid"]
    os.kill(pid, signal.SIGSTOP)  # it is to find the call and its end at once, however fast it is
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as impatient:
        impatient.connect(str(session.paths.socket))
        impatient.sendall(encode_call("add", {"intercept": encode(computer.draft())}))
    os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: "delete_intercept" in computer.agent.calls)
    assert [i["name"] for i in session.info()["intercepts"]] == ["other"]


def test_restarted_agent_gets_the_session_and_its_intercepts_again(computer):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft("one"))
    session.add(computer.draft("two"))
    computer.restart_agent()
    started = time.monotonic()
    assert wait_until(lambda: set(computer.agent.intercepts) == {"one", "two"})
    assert time.monotonic() - started < 9, "it did not wait until its lease was to be renewed"
    exchange(computer.agent, handler, "one")
    exchange(computer.agent, handler, "two")
    assert session.info()["up"]


@pytest.mark.parametrize("away", [0.0, 3.0])
def test_after_a_goodbye_the_next_agent_has_session_and_intercepts_within_a_second(computer, away):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft("one"))
    session.add(computer.draft("two"))

    def told_after():
        computer.agent.says_goodbye = True
        computer.agent.close()
        time.sleep(away)
        computer.start_agent()
        started = time.monotonic()
        assert wait_until(lambda: set(computer.agent.intercepts) == {"one", "two"})
        took = time.monotonic() - started
        exchange(computer.agent, handler, "one")
        assert wait_until(lambda: session.info()["up"])
        return took

    assert quickest(1.0, told_after, 4) < 1.0


def test_f10_dropped_session_registers_again(computer):
    handler = computer.handler()
    session = computer.ensure()
    name = session.add(computer.draft()).intercept.session
    computer.agent.in_loop(computer.agent.forget, name)
    assert wait_until(lambda: "shop" in computer.agent.intercepts)
    exchange(computer.agent, handler)


def test_f11_laptop_changes_its_address_and_neither_stream_nor_session_notices(computer):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft())
    with computer.agent.dial("shop") as client, handler.accept()[0] as served:
        assert receive(client, 1) == b"\x00"
        device = next(name for _, name in computer.laptop.run(socket.if_nameindex) if name != "lo")
        elsewhere = computer.laptop_ip.rpartition(".")[0] + ".77"
        computer.laptop.run(lambda: change_address(device, computer.laptop_ip, elsewhere))
        served.settimeout(20)
        served.sendall(b"from elsewhere")
        assert receive(client, 14) == b"from elsewhere"
        client.sendall(b"found you")
        assert receive(served, 9) == b"found you"
    assert computer.agent.calls.count("register_session") == 1


def test_intercept_removed_at_the_agent_is_let_go(computer):
    session = computer.ensure()
    session.add(computer.draft("kept"))
    session.add(computer.draft("gone"))
    del computer.agent.intercepts["gone"]
    computer.handler()  # news of a handler is told at once, and the agent's state seen with it
    assert wait_until(lambda: [i["name"] for i in session.info()["intercepts"]] == ["kept"])


def test_intercept_is_let_go_of_without_an_agent_and_does_not_come_back(computer):
    session = computer.ensure()
    session.add(computer.draft("kept"))
    session.add(computer.draft("left"))
    computer.agent.close()
    assert session.remove("left") == {"draining": 0, "last": False, "told": False}
    with pytest.raises(NotThere, match="no intercept left"):
        session.remove("left")
    computer.restart_agent()
    assert wait_until(lambda: set(computer.agent.intercepts) == {"kept"})
    time.sleep(0.3)
    assert set(computer.agent.intercepts) == {"kept"}


def test_intercept_that_the_agent_could_not_be_told_of_is_removed_when_it_answers(computer):
    session = computer.ensure()
    session.add(computer.draft("kept"))
    session.add(computer.draft("left"))
    agent = computer.agent

    def stuck(**args):
        raise NotThere("The agent did not answer.")

    agent.do_delete_intercept = agent.do_info = stuck
    assert not session.remove("left")["told"]
    assert set(agent.intercepts) == {"kept", "left"}
    del agent.do_delete_intercept, agent.do_info
    computer.handler()  # news of a handler: the daemon speaks to the agent at once
    assert wait_until(lambda: set(agent.intercepts) == {"kept"})


def files(computer):
    return sorted(
        path.name.removeprefix(f"{computer.user}.") for path in (computer.run_dir / "sessions").iterdir()
    )


@pytest.mark.parametrize("how", ["last", "quit", "last without an agent"])
def test_only_the_log_stays(how, computer):
    session = computer.ensure()
    session.add(computer.draft())
    pid = session.info()["pid"]
    assert files(computer) == ["lock", "log", "sock"]
    if how == "quit":
        session.quit()
    else:
        if how != "last":
            computer.agent.close()
        session.remove("shop")
    assert wait_until(lambda: gone(pid))
    assert files(computer) == ["log"]


def test_two_commands_at_once_start_one_daemon(computer):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(computer.ensure().info()["pid"])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert files(computer) == ["lock", "log", "sock"]


def test_dead_tunnel_device_is_replaced_with_a_new_key(computer):
    handler = computer.handler()
    session = computer.ensure()
    name = session.add(computer.draft()).intercept.session
    registered = computer.agent.sessions[name]
    below = children(session.info()["pid"])
    if not below:
        pytest.skip("this kernel has WireGuard (CONFIG_WIREGUARD): its device cannot die")
    kill(below[0])
    assert wait_until(lambda: computer.agent.sessions.get(name, registered) != registered)
    assert computer.agent.sessions[name][0].public_key != registered[0].public_key
    assert wait_until(lambda: "shop" in computer.agent.intercepts)
    exchange(computer.agent, handler)


def test_second_daemon_of_a_user_is_refused(computer):
    computer.ensure().add(computer.draft())
    with run_daemon(computer) as second:
        _, said = second.communicate(timeout=20)
    assert second.returncode == Conflict.exit_code
    assert "runs already" in said


def test_odd_user_name_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be used"):
        SessionClient(tmp_path, "../eve")


def test_other_users_may_not_ask(computer):
    session = computer.ensure()
    computer.run_dir.chmod(0o755)
    (computer.run_dir / "sessions").chmod(0o755)
    session.paths.socket.chmod(0o666)
    child = os.fork()
    if not child:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            try:
                sock.connect(str(session.paths.socket))
                sock.sendall(b'{"call":"info","args":{}}\n')
                answered = bool(sock.recv(1))
            except OSError:
                answered = False
        os._exit(1 if answered else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert session.info()["up"]


@pytest.mark.slow
def test_what_is_under_way_when_an_intercept_is_left_ends_in_its_own_time(computer):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft())
    pid = session.info()["pid"]
    with computer.agent.dial("shop") as client, handler.accept()[0] as served:
        assert receive(client, 1) == b"\x00"
        client.sendall(b"question")
        assert receive(served, 8) == b"question"
        assert session.remove("shop") == {"draining": 1, "last": True, "told": True}
        time.sleep(12)
        assert session.info()["draining"] == 1
        served.sendall(b"answer")
        assert receive(client, 6) == b"answer"
        assert session.info()["pid"] == pid
    assert wait_until(lambda: gone(pid))


def test_quit_waits_for_what_is_under_way_for_a_time_and_says_what_it_cut(computer):
    handler = computer.handler()
    session = computer.ensure()
    session.add(computer.draft())

    def ask():
        client = computer.agent.dial("shop", timeout=20)
        served, _ = handler.accept()
        assert receive(client, 1) == b"\x00"
        return client, served

    (client, served), (stuck, waiting) = ask(), ask()
    with client, served, stuck, waiting:
        got = []

        def answer():
            served.sendall(b"answer")
            served.close()
            got.append(receive(client, 7))
            client.close()

        timer = threading.Timer(2.0, answer)
        timer.start()
        began = time.monotonic()
        assert session.quit() == {"behind": {}, "cut": 1}
        assert 4.5 < time.monotonic() - began < 20
        timer.join()
        assert got == [b"answer"]
        with pytest.raises(ConnectionError):
            receive(stuck, 1)


@pytest.mark.parametrize("listening", ["127.0.0.1", "::1"])
def test_every_spelling_of_this_computer_finds_its_server_of_either_family(computer, listening):
    handler = computer.handler(8086, listening)
    session = computer.ensure()
    found = set()
    for number, text in enumerate(
        ["8086", ":8086", "localhost:8086", "127.0.0.1:8086", "[::1]:8086", "0.0.0.0:8086", "[::]:8086"]
    ):
        name = f"i{number}"
        status = session.add(computer.draft(name, text))
        (entry,) = (one for one in session.info()["intercepts"] if one["name"] == name)
        assert status.handler_up == entry["handler_up"] == (not entry["handler_problem"])
        if status.handler_up:
            found.add(text)
            exchange(computer.agent, handler, name)
        else:
            assert status.handler_problem == f"nothing listens on {text}"
            with computer.agent.dial(name) as client:
                assert receive(client, 2) == b"\x01"
    other = "[::1]:8086" if listening == "127.0.0.1" else "127.0.0.1:8086"
    assert found == {
        "8086",
        ":8086",
        "localhost:8086",
        "127.0.0.1:8086",
        "[::1]:8086",
        "0.0.0.0:8086",
        "[::]:8086",
    } - {other}


def test_unknown_host_is_told_as_unknown(computer):
    session = computer.ensure()
    status = session.add(computer.draft(handler="nosuch.invalid:80"))
    assert not status.handler_up
    assert re.fullmatch(
        r"the host nosuch.invalid is unknown(, names cannot be looked up now)?", status.handler_problem
    )
    (entry,) = session.info()["intercepts"]
    assert entry["handler_problem"] == status.handler_problem
    with computer.agent.dial("shop") as client:
        assert receive(client, 2) == b"\x01"


def test_handler_on_another_computer_is_found_by_connecting(computer):
    handler = computer.node.socket(socket.AF_INET, socket.SOCK_STREAM)
    with handler:
        handler.bind((computer.node_ip, 8090))
        handler.listen()
        handler.settimeout(5)
        session = computer.ensure()
        assert session.add(computer.draft(handler=f"{computer.node_ip}:8090")).handler_up
        client = computer.agent.dial("shop")
        with client:
            assert receive(client, 1) == b"\x00"
