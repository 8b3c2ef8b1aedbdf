import errno
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tpnet.datapath.netns import NetNs, all_namespaces, key_at
from tpnet.model import NotThere, Refused


def current():
    return key_at("/proc/thread-self/ns/net")


def test_names_paths_and_pids_of_one_namespace_have_one_key(podnet):
    name = podnet.pod.name
    sleeper = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"])
    try:
        expected = podnet.pod.netns.key
        while key_at(f"/proc/{sleeper.pid}/ns/net") != expected:
            pass
        for netns in (
            NetNs.from_name(name),
            NetNs.from_path(f"/run/netns/{name}"),
            NetNs.from_pid(sleeper.pid),
            podnet.pod.netns.run(NetNs.own),
        ):
            with netns:
                assert netns.key == expected
                assert netns.inode == Path(f"/run/netns/{name}").stat().st_ino
                assert not netns.is_host()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_our_own_namespace_is_the_hosts():
    with NetNs.own() as netns:
        assert netns.is_host()
    with NetNs.from_pid(os.getpid()) as netns:
        assert netns.is_host()


def test_our_own_namespace_is_known_while_another_thread_is_elsewhere(podnet):
    with ThreadPoolExecutor(1) as pool, NetNs.own() as home:
        pool.submit(int).result()  # its thread starts at home
        with podnet.pod.netns.entered():
            assert pool.submit(home.is_host).result()
            assert not pool.submit(podnet.pod.netns.is_host).result()


@pytest.mark.parametrize("path", ["/run/netns/tpn-there-is-no-such", "/proc/0/ns/net"])
def test_what_is_not_there_is_not_there(path):
    with pytest.raises(NotThere, match="There is no network namespace"):
        NetNs.from_path(path)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/proc/self/ns/mnt", "/tmp"])
def test_what_is_no_network_namespace_is_refused(path):
    with pytest.raises(NotThere, match="is not a network namespace"):
        NetNs.from_path(path)


def test_a_pipe_does_not_hang_us(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotThere, match="is not a network namespace"):
        NetNs.from_path(tmp_path / "pipe")


def test_run_is_inside_and_the_caller_stays_outside(podnet):
    home = current()
    links = podnet.pod.netns.run(lambda: Path("/proc/thread-self/net/dev").read_text())
    assert "eth0:" in links
    assert podnet.pod.netns.run(current) == podnet.pod.netns.key
    assert current() == home


def test_run_gives_what_was_raised(podnet):
    def fail():
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        podnet.pod.netns.run(fail)


def test_sysctls_are_the_namespaces_own(podnet):
    path = Path("/proc/sys/net/ipv4/ip_default_ttl")
    outside = path.read_text()
    podnet.pod.netns.run(lambda: path.write_text("33"))
    assert podnet.pod.netns.run(path.read_text) == "33\n"
    assert path.read_text() == outside
    assert podnet.client.run(path.read_text) == outside


def test_sockets_are_made_inside_and_the_thread_comes_back(podnet):
    home = current()
    with podnet.pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert current() == home
        sock.bind((podnet.pod.address[4], 0))
    with pytest.raises(RuntimeError), podnet.pod.netns.entered():
        assert current() == podnet.pod.netns.key
        raise RuntimeError
    assert current() == home


def test_a_thread_that_is_inside_comes_back_to_where_it_was(podnet):
    def nested():
        podnet.client.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        return current()

    assert podnet.pod.netns.run(nested) == podnet.pod.netns.key


def test_other_threads_never_notice(podnet):
    home, wrong, stop = current(), [], threading.Event()

    def watch():
        while not stop.is_set():
            if current() != home:
                wrong.append(current())

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(300):
        podnet.pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    stop.set()
    thread.join()
    assert not wrong


def test_descriptors_are_not_inherited_and_closing_twice_is_fine(podnet):
    netns = NetNs.from_name(podnet.pod.name)
    assert not os.get_inheritable(netns.fd)
    fd = netns.fd
    netns.close()
    netns.close()
    with pytest.raises(OSError) as gone:
        os.fstat(fd)
    assert gone.value.errno == errno.EBADF


def test_an_anonymous_namespace_is_new_and_ends_with_its_descriptor(podnet):
    netns = NetNs.anonymous("scratch")
    try:
        assert netns.key != current()
        assert not netns.is_host()
        # A veth pair with its other end in there vanishes together with the namespace.
        subprocess.run(
            ["ip", "-n", podnet.client_name, "link", "add", "probe", "type", "veth", "peer", "name", "x",
             "netns", f"/proc/{os.getpid()}/fd/{netns.fd}"],
            check=True,
        )  # fmt: skip
    finally:
        netns.close()
    for _ in range(500):
        links = subprocess.run(
            ["ip", "-n", podnet.client_name, "link"], capture_output=True, text=True, check=True
        ).stdout
        if "probe@" not in links:
            break
    assert "probe@" not in links


def test_all_namespaces_has_each_once_and_not_the_hosts(podnet):
    found = all_namespaces()
    try:
        keys = [netns.key for netns in found]
        assert len(keys) == len(set(keys))
        assert current() not in keys
        labels = {netns.key: netns.label for netns in found}
        assert labels[podnet.pod.netns.key] == f"netns/{podnet.pod.name}"
        assert labels[podnet.client.key] == f"netns/{podnet.client_name}"
    finally:
        for netns in found:
            netns.close()


def test_without_the_right_to_enter_the_error_says_so(podnet):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            for attempt in (
                lambda: podnet.pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM),
                lambda: NetNs.anonymous("x"),
            ):
                try:
                    attempt()
                except Refused as error:
                    os.write(writing, error.message.encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    assert lines == [
        f"This process may not enter the network namespace netns/{podnet.pod.name}.",
        "This process may not make a network namespace.",
    ]
