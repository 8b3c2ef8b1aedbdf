import pytest
from agent_lab import Agent, AgentLab, ask, wait_until


@pytest.fixture
def small():
    """A lab whose agent and worker may have few file descriptors."""
    agent = Agent()
    lab = None
    try:
        agent.process = agent.launch(through=("prlimit", "--nofile=800:800"))
        wait_until(agent.answers, 20, agent.words)
        lab = AgentLab(agent)
        yield lab
    finally:
        if lab is not None:
            lab.close()
        agent.close()


def test_when_the_worker_has_no_descriptors_left_the_app_takes_new_clients_and_later_the_worker_again(small):
    small.nginx()
    small.session()
    small.create()
    assert ask(small.net) == (200, "the app")

    def target():
        return small.control.status().targets[0]

    open_ = []
    try:
        for _ in range(400):
            sock = small.net.connect(8080)
            open_.append(sock)
            sock.settimeout(3)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        wait_until(lambda: target().open > 50)
        assert target().open < 300
        assert not target().ready
        assert target().reason == "the worker is out of file descriptors"
        for sock in open_:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    finally:
        for sock in open_:
            sock.close()
    wait_until(lambda: target().ready)
    assert target().reason == ""
    before = target().requests
    assert ask(small.net) == (200, "the app")
    wait_until(lambda: target().requests == before + 1)
    assert len(small.control.info().worker_pids) == 1
    assert small.control.info().worker_restarts == 0
