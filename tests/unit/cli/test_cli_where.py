import os

import pytest

from tpnet.control.local.protocol import SOCKET_NAME
from tpnet.model import InvalidInput, NotThere
from tpnet_cli import where as module
from tpnet_cli.where import choose, run_dir


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A home with nothing in it, and no agent."""
    for name in ("KUBECONFIG", "TPNET_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tpnet.control.local.protocol.default_run_dir", lambda: tmp_path / "run")
    return tmp_path


def have_kubeconfig(home, text="current-context: lab"):
    (home / ".kube").mkdir()
    (home / ".kube/config").write_text(text)


def have_agent(home):
    (home / "run").mkdir()
    (home / "run" / SOCKET_NAME).touch()


def test_local_wins_over_everything(bare, monkeypatch):
    have_kubeconfig(bare)
    monkeypatch.setenv("KUBECONFIG", "/x")
    assert not choose(local=True).is_cluster
    assert choose(local=True).said == "--local"


def test_a_flag_of_kubectls_means_a_cluster(bare, monkeypatch):
    monkeypatch.setenv("TPNET_RUN_DIR", "/x")
    flags = (
        {"namespace": "shop"},
        {"context": "c"},
        {"kubeconfig": "f"},
        {"as_user": "u"},
        {"all_namespaces": True},
    )
    for flag in flags:
        assert choose(**flag).is_cluster


def test_a_run_dir_means_this_machine_even_with_a_kubeconfig(bare, monkeypatch):
    have_kubeconfig(bare)
    monkeypatch.setenv("TPNET_RUN_DIR", "/x")
    assert not choose().is_cluster
    assert choose(cluster_only=True).is_cluster


def test_a_kubeconfig_means_a_cluster_even_with_an_agent_here(bare):
    have_kubeconfig(bare)
    have_agent(bare)
    assert choose().is_cluster


def test_an_agent_here_and_no_kubeconfig_means_this_machine(bare):
    have_agent(bare)
    assert not choose().is_cluster
    choose().control().close()


def test_neither_is_said_with_both_ways_out(bare):
    with pytest.raises(NotThere) as caught:
        choose().control()
    assert "no kubeconfig" in caught.value.message
    assert "--kubeconfig" in caught.value.hint
    assert "tpnet agent run --local" in caught.value.hint


def test_the_context_of_the_moment_is_written_down(bare, monkeypatch):
    have_kubeconfig(bare)
    first = choose()
    assert (first.options.kubeconfig, first.options.context) == (str(bare / ".kube/config"), "lab")
    (bare / ".kube/config").write_text("current-context: other")
    assert choose().options.context == "other"
    assert choose()._of_session.key != first._of_session.key
    assert choose(context="lab")._of_session.key == first._of_session.key
    assert (
        choose(context="lab", namespace="shop", all_namespaces=True)._of_session.key == first._of_session.key
    )


def test_of_several_files_the_first_that_has_a_current_context_says_it(bare, monkeypatch):
    for name, text in (("a", "kind: Config"), ("b", "current-context: two"), ("c", "current-context: three")):
        (bare / name).write_text(text)
    monkeypatch.chdir(bare)
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(["a", "missing", "b", "", "c"]))
    options = choose().options
    assert options.context == "two"
    assert options.kubeconfig == os.pathsep.join(str(bare / name) for name in ("a", "missing", "b", "c"))


@pytest.mark.parametrize("text", ["", "- a", ": : :", "\x00", "current-context: ''"])
def test_what_cannot_be_read_is_left_to_who_reads_it_in_earnest(text, bare):
    have_kubeconfig(bare, text)
    assert choose().options.context is None


def test_what_was_said_can_be_said_again(bare):
    flags = {"kubeconfig": "a b", "context": "c", "namespace": "shop", "as_user": "eve", "as_groups": ("g",)}
    assert choose(**flags).said == "--kubeconfig 'a b' --context c -n shop --as eve"
    assert choose(namespace=None, as_user="", as_groups=()).said == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("3", 3), ("2m", 120), ("500ms", 0.5), ("1.5s", 1.5)]
)
def test_request_timeouts(text, seconds, bare):
    assert choose(namespace="a", request_timeout=text).options.request_timeout == seconds


def test_what_does_not_go_together(bare):
    for flags in (
        {"local": True, "namespace": "a"},
        {"as_groups": ("a",)},
        {"namespace": "a", "request_timeout": "x"},
    ):
        with pytest.raises(InvalidInput):
            choose(**flags)


def test_a_session_of_a_cluster_needs_no_root(bare, monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert str(run_dir(cluster=True)) == "/run/user/1000/tpnet"
    monkeypatch.setenv("TPNET_RUN_DIR", "/elsewhere")
    assert run_dir(cluster=True) == run_dir(cluster=False)
