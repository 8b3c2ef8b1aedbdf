import contextlib
import os
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tpnet.datapath.netns import NetNs
from tpnet.datapath.target import resolve_targets
from tpnet.model import InvalidInput, NotThere, Refused

CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def resolved(text):
    targets = resolve_targets(text)
    try:
        yield targets
    finally:
        for target in targets:
            target.close()


@contextlib.contextmanager
def process_in(name):
    """A sleeping process inside a namespace."""
    with (
        NetNs.from_name(name) as netns,
        subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"]) as sleeper,
    ):
        while Path(f"/proc/{sleeper.pid}/ns/net").stat().st_ino != netns.inode:
            time.sleep(0.001)
        try:
            yield sleeper
        finally:
            sleeper.kill()


@pytest.fixture
def container(podnet):
    """``start()`` runs a process of a new container in the pod; gives its id and the process."""
    root = next(
        path
        for path in (CGROUPS / "unified", CGROUPS / "systemd", CGROUPS)
        if (path / "cgroup.procs").exists()
    )
    folders = []
    with contextlib.ExitStack() as stack:

        def start(pattern="cri-containerd-{}.scope", name=podnet.pod.name, ident=None):
            ident = ident or uuid4().hex + uuid4().hex
            folder = root / pattern.format(ident)
            if folder not in folders:
                folder.mkdir()
                folders.append(folder)
            process = stack.enter_context(process_in(name))
            (folder / "cgroup.procs").write_text(str(process.pid))
            return ident, process

        yield start
    for folder in folders:
        deadline = time.monotonic() + 30
        while folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                folder.rmdir()
            time.sleep(0.005)


def test_by_name(podnet):
    for text in (podnet.pod.name, f"netns/{podnet.pod.name}", f" {podnet.pod.name} "):
        with resolved(text) as (target,):
            assert target.name == f"netns/{podnet.pod.name}"
            assert target.netns.key == podnet.pod.netns.key
            assert target.alive()


def test_by_path(podnet):
    path = f"/run/netns/{podnet.pod.name}"
    with resolved(path) as (target,):
        assert target.name == path
        assert target.netns.key == podnet.pod.netns.key
        assert target.alive()


def test_by_wildcard_and_comma(make_podnet):
    net = make_podnet(pods=3)
    names = [f"netns/{pod.name}" for pod in net.pods]
    with resolved(f"tpn-{net.tag}-pod*") as targets:
        assert [target.name for target in targets] == names
    with resolved(f"netns/tpn-{net.tag}-pod[13]") as targets:
        assert [target.name for target in targets] == [names[0], names[2]]
    with resolved(f"{net.pods[2].name},netns/{net.pods[0].name}") as targets:
        assert [target.name for target in targets] == [names[2], names[0]]


def test_one_namespace_by_two_names_is_one_target(podnet):
    with process_in(podnet.pod.name) as sleeper:
        text = f"{podnet.pod.name},pid/{sleeper.pid},/proc/{sleeper.pid}/ns/net,tpn-{podnet.tag}-p*"
        with resolved(text) as (target,):
            assert target.name == f"netns/{podnet.pod.name}"


def test_a_name_is_alive_until_it_is_deleted_and_not_again_when_made_anew(podnet):
    with resolved(podnet.pod.name) as (target,):
        subprocess.run(["ip", "netns", "delete", podnet.pod.name], check=True)
        assert not target.alive()
        subprocess.run(["ip", "netns", "add", podnet.pod.name], check=True)
        assert not target.alive()


def test_by_pid_until_the_process_ends(podnet):
    with process_in(podnet.pod.name) as sleeper, resolved(f"pid/{sleeper.pid}") as (target,):
        assert target.name == f"pid/{sleeper.pid}"
        assert target.netns.key == podnet.pod.netns.key
        assert target.alive()
        sleeper.kill()
        deadline = time.monotonic() + 30
        while target.alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not target.alive()  # a zombie is not alive
        sleeper.wait()
        assert not target.alive()


@pytest.mark.parametrize(
    "pattern", ["cri-containerd-{}.scope", "crio-{}.scope", "docker-{}.scope", "{}", "libpod-{}.scope"]
)
def test_by_container_id(podnet, container, pattern):
    ident, process = container(pattern)
    for text in (ident, ident[:12]):
        with resolved(f"container/{text}") as (target,):
            assert target.name == f"container/{ident}"
            assert target.netns.key == podnet.pod.netns.key
            assert target.alive()
            if text == ident[:12]:
                process.kill()
                process.wait()
                assert not target.alive()


def test_a_container_lives_on_in_its_other_processes(podnet, container):
    ident, first = container()
    with resolved(f"container/{ident}") as (target,):
        _, second = container(ident=ident)
        first.kill()
        first.wait()
        assert target.alive()
        assert target.alive()
        second.kill()
        second.wait()
        assert not target.alive()


def test_a_containers_monitor_is_not_the_container(container):
    ident, _ = container("crio-conmon-{}.scope")
    with pytest.raises(NotThere, match="No process"):
        resolve_targets(f"container/{ident}")


def test_an_ambiguous_container_is_refused(container):
    beginning = uuid4().hex[:12]
    for _ in range(2):
        container(ident=beginning + (uuid4().hex + uuid4().hex)[:52])
    with pytest.raises(InvalidInput, match="beginning of 2"):
        resolve_targets(f"container/{beginning}")


@pytest.mark.parametrize("text", ["pid/{}", "/proc/self/ns/net", "/proc/{}/ns/net"])
def test_the_hosts_namespace_is_refused_with_the_reason(text):
    text = text.format(os.getpid())
    with pytest.raises(Refused, match="own network namespace") as refused:
        resolve_targets(text)
    assert "hostNetwork" in refused.value.hint


def test_one_refused_target_refuses_all_and_leaks_nothing(podnet):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for text in (f"{podnet.pod.name},pid/{os.getpid()}", f"{podnet.pod.name},no-such-{podnet.tag}"):
        with pytest.raises((Refused, NotThere)):
            resolve_targets(text)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no-such-namespace", "There is no network namespace 'no-such-namespace'"),
        ("netns/no-such-namespace", "There is no network namespace"),
        ("no-such-*", "No network namespace matches"),
        ("/run/netns/no-such-namespace", "There is no network namespace"),
        ("/etc/hostname", "is not a network namespace"),
        ("pid/4194999", "There is no process 4194999"),
        ("container/" + "0" * 64, "No process of a container"),
    ],
)
def test_what_does_not_exist(text, words, podnet):
    with pytest.raises(NotThere, match=words.replace("*", r"\*")) as missing:
        resolve_targets(text)
    if "such-" in text and not text.startswith("/"):
        assert "There are: " in missing.value.hint


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "a,,b", "pid/", "pid/0", "pid/-1", "pid/1x", "pid/99999999999", "container/", "container/xyz",
     "container/abc123", "container/" + "A" * 64, "deployment/shop", "netns/", "netns/a/b", "a/b/c", "..", ".", "netns/.."],
)  # fmt: skip
def test_what_is_no_target(text, podnet):
    text = text.replace("a,,b", f"{podnet.pod.name},,{podnet.client_name}")
    with pytest.raises(InvalidInput) as refused:
        resolve_targets(text)
    assert refused.value.message.endswith(".")


def test_an_empty_name_left_in_run_netns_is_told_from_a_namespace(podnet):
    name = f"tpn-{podnet.tag}-stale"
    path = Path("/run/netns") / name
    path.touch()
    try:
        with pytest.raises(NotThere, match="is not a network namespace"):
            resolve_targets(name)
    finally:
        path.unlink()


def pod_folder(root, uid):
    folder = root / f"pod{uid}"
    folder.mkdir()
    return folder


@pytest.fixture
def kube_pod(podnet):
    """``start(name)`` runs a process of the pod in a namespace; ``start.uid`` is the pod's."""
    root = next(
        path
        for path in (CGROUPS / "unified", CGROUPS / "systemd", CGROUPS)
        if (path / "cgroup.procs").exists()
    )
    uid = str(uuid4())
    folder = pod_folder(root, uid)
    with contextlib.ExitStack() as stack:

        def start(name):
            process = stack.enter_context(process_in(name))
            (folder / "cgroup.procs").write_text(str(process.pid))
            time.sleep(0.25)  # longer than one look at /proc is used
            return process

        start.uid = uid
        yield start
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            folder.rmdir()
        time.sleep(0.005)


def test_a_pod_by_its_uid_while_any_of_its_processes_is_in_the_namespace(podnet, kube_pod):
    first = kube_pod(podnet.pod.name)
    with resolved(f"pod/{kube_pod.uid}") as (target,):
        assert target.name == f"pod/{kube_pod.uid}"
        assert target.netns.key == podnet.pod.netns.key
        second = kube_pod(podnet.pod.name)
        first.kill()
        first.wait()
        time.sleep(0.25)
        assert target.alive()
        second.kill()
        second.wait()
        time.sleep(0.25)
        assert not target.alive()


def test_a_pod_is_in_the_namespace_of_its_oldest_process(make_podnet, kube_pod):
    net = make_podnet(pods=2)
    kube_pod(net.pods[0].name)
    kube_pod(net.pods[1].name)
    with resolved(f"pod/{kube_pod.uid}") as (target,):
        assert target.netns.key == net.pods[0].netns.key


def test_a_runtimes_monitor_in_the_hosts_namespace_does_not_hide_the_pod(podnet, kube_pod):
    root = next(
        path
        for path in (CGROUPS / "unified", CGROUPS / "systemd", CGROUPS)
        if (path / "cgroup.procs").exists()
    )
    with subprocess.Popen(["sleep", "60"]) as monitor:
        try:
            (root / f"pod{kube_pod.uid}" / "cgroup.procs").write_text(str(monitor.pid))
            time.sleep(0.25)
            with pytest.raises(Refused):
                resolve_targets(f"pod/{kube_pod.uid}")
            kube_pod(podnet.pod.name)
            with resolved(f"pod/{kube_pod.uid}") as (target,):
                assert target.netns.key == podnet.pod.netns.key
        finally:
            monitor.kill()
