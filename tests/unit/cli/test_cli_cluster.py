import dataclasses
import json
import shlex

import cli_cluster_samples as samples
import pytest

from tpnet.model import Conflict, NotThere, Refused, TargetInfo
from tpnet_cli.main import run


def one_line(text):
    return " ".join(text.split())


@pytest.fixture
def cluster(home, monkeypatch):
    """A kubeconfig, and behind it prepared answers. The namespace is said with -n, so it is a cluster."""
    fake = samples.FakeCluster()
    monkeypatch.setenv("HOME", str(home))
    (home / ".kube").mkdir()
    (home / ".kube/config").write_text("current-context: lab\n")
    monkeypatch.setattr("tpnet.control.kubernetes.client.connect", fake.connect)
    return fake


@pytest.fixture
def daemon(cluster, monkeypatch):
    fake = samples.FakeDaemon()
    monkeypatch.setattr("tpnet.session.ensure_session", fake.ensure)
    monkeypatch.setattr("tpnet.session.SessionClient", fake.client)
    return fake


def test_intercept_says_its_steps_and_ends_with_what_to_type(daemon, cluster, capsys):
    args = ["orders", "--http-header=Coder=Bob", "--http-path-prefix=/api", "-n", "shop"]
    assert run(["intercept", *args]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("✓ session   bob-example-org-0a1b2c3d")
    assert lines[1].startswith("✓ pods      2/2 on 1 node redirected (ebpf) and probed")
    rest = [
        "orders-bob-example-org is on.",
        "  takes   orders:80   Coder: Bob   /api…",
        "  sends   to localhost:80",
        "  others  to the pods, as before",
        "",
        "try    curl -H 'Coder: Bob' http://orders.shop/api",
        "watch  tpnet watch orders-bob-example-org -n shop",
        "stop   tpnet leave orders-bob-example-org -n shop",
    ]
    assert lines[3:] == rest
    (draft,) = daemon.added
    assert (draft.name, draft.user, draft.port) == ("shop/orders-bob-example-org", "bob@example.org", 80)


def test_a_session_is_of_the_context_and_of_no_namespace(daemon, cluster, home):
    assert run(["intercept", "orders", "-n", "shop", "--request-timeout", "3s"]) == 0
    assert (cluster.options.namespace, cluster.options.request_timeout) == ("shop", 3.0)
    options = daemon.options
    assert (options.namespace, options.request_timeout, options.context) == (None, 0.0, "lab")
    assert options.kubeconfig == str(home / ".kube/config")


def test_intercept_of_everything_says_so(daemon, cluster, capsys):
    assert run(["intercept", "orders", "--http-header=all", "-n", "shop"]) == 0
    assert "others  only those that a personal intercept takes are not sent here" in capsys.readouterr().out


def test_what_tables_cut_is_told_in_full(daemon, cluster, capsys):
    value = "126a72c7-be8b-4329-af64-768e207a184b-and-more-of-the-same"
    assert run(["intercept", "orders", f"--http-header=Personal-Intercept={value}", "-n", "shop"]) == 0
    assert f"Personal-Intercept: {value}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("port", "local", "remote"), [("8080:metrics", 8080, 9090), ("8080:9090", 8080, 9090), ("80", 80, 80)]
)
def test_ports_by_number_and_by_name(port, local, remote, daemon, cluster):
    cluster.info_of_target = samples.INFO
    assert run(["intercept", "orders", "-n", "shop", "--port", port]) == 0
    assert (daemon.added[0].handler, daemon.added[0].port) == (f"localhost:{local}", remote)


def test_what_a_workload_does_not_declare_may_listen_all_the_same(daemon, cluster):
    cluster.info_of_target = TargetInfo("shop/deploy/orders", (8080,), port_names=("",))
    assert run(["intercept", "deploy/orders", "-n", "shop", "--port", "80:9999"]) == 0
    assert daemon.added[0].port == 9999


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["orders"], 2, "orders listens on 80 and 9090; one of them must be chosen."),
        (["orders", "-p", "80:81"], 5, "The Service shop/orders has no TCP port 81."),
        (["orders", "-p", "80:web"], 5, "There is no port named web."),
        (["orders", "-p", "80", "--user", "eve"], 2, "In a cluster you are who your kubeconfig says"),
        (["cm/orders"], 2, "'cm' is nothing that can be intercepted."),
        (["netns/orders"], 2, "Targets are NAME or svc/NAME"),
        (["orders", "--name", "Orders"], 2, "'Orders' is no name for an intercept in a cluster."),
        (["orders", "--request-timeout", "soon"], 2, "--request-timeout=soon is no time."),
        (["orders", "--as-group", "x"], 2, "--as-group goes with --as"),
        (["orders", "--local"], 2, "--local goes with none of kubectl's flags."),
    ],
)
def test_what_is_wrong_is_told_before_a_session_starts(flags, code, says, daemon, cluster, capsys):
    cluster.info_of_target = samples.INFO
    assert run(["intercept", *flags, "-n", "shop"]) == code
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert not daemon.there


def test_what_does_not_work_yet_is_a_warning(daemon, cluster, capsys):
    daemon.handler_up = False
    daemon.agents = samples.SESSION["agents"]
    assert run(["intercept", "orders", "-n", "shop", "--http-header=a=b"]) == 0
    out = one_line(capsys.readouterr().out)
    assert "! tunnel node n2 does not answer yet; requests there go to the app until it does" in out
    assert "! handler nothing listens on localhost:80; requests go to the app until that changes" in out


def test_a_refusal_is_shown_as_the_cluster_words_it(daemon, capsys):
    daemon.failure = Refused("A global intercept in shop needs the verb intercept-all.", "Ask.")
    assert run(["intercept", "orders", "-n", "shop", "--http-header=all"]) == 3
    assert capsys.readouterr().err == "✗ A global intercept in shop needs the verb intercept-all.\n  Ask.\n"
    daemon.failure = Conflict("alice has it.")
    assert run(["intercept", "orders", "-n", "shop", "--http-header=all"]) == 4


def test_default_names_do_not_collide_in_their_namespace(daemon, cluster):
    cluster.current = samples.STATUS
    cluster.user = "bob"
    assert run(["intercept", "orders", "-n", "shop", "--http-header=a=b"]) == 0
    assert daemon.added[0].name == "shop/orders-bob-2"


def test_list_shows_names_without_the_namespace_that_all_share(daemon, cluster, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    cluster.current = samples.STATUS
    assert run(["list", "-n", "shop"]) == 0
    assert "\norders-bob " in capsys.readouterr().out
    assert run(["list", "-A"]) == 0
    assert cluster.options.all_namespaces
    assert "\nshop/orders-bob " in capsys.readouterr().out
    assert run(["list", "-n", "shop", "--mine", "-o", "json"]) == 0
    names = [item["intercept"]["name"] for item in json.loads(capsys.readouterr().out)]
    assert names == ["shop/orders-bob", "shop/cart-bob"]


def test_an_empty_list_says_of_what(daemon, cluster, capsys):
    assert run(["list", "-n", "shop", "-l", "a=b"]) == 0
    assert cluster.options.labels == "a=b"
    assert capsys.readouterr().out.startswith("No intercepts in shop: ")


def test_ones_own_computer_knows_more_of_ones_own(daemon, cluster, capsys):
    cluster.current = samples.STATUS
    daemon.there = True
    assert run(["list", "-n", "shop"]) == 0
    assert (
        "cart-bob: nothing listens on 127.0.0.1:8081; its requests go to the app" in capsys.readouterr().out
    )
    assert run(["status", "-n", "shop", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    up = {item["intercept"]["name"]: item["handler_up"] for item in said["intercepts"]}
    assert (up["shop/orders-bob"], up["shop/cart-bob"]) == (True, False)
    assert said["session"]["agents"] == daemon.agents


def test_watch_counts_the_connections_that_are_open_here(daemon, cluster, capsys):
    cluster.current = samples.STATUS
    daemon.there = True
    assert run(["watch", "orders-bob", "--once", "-n", "shop"]) == 0
    out = capsys.readouterr().out
    assert "2 of 1,204" in out
    assert "the app" not in out
    assert run(["watch", "nope", "--once", "-n", "shop"]) == 5
    assert run(["watch", "shop/orders-bob", "--once", "-n", "shop", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["intercepts"][0]["intercept"]["name"] == "shop/orders-bob"


def test_explain_asks_by_the_rules_of_the_cluster(cluster, capsys):
    assert run(["explain", "orders", "/x", "-H", "Coder: Bob", "-n", "shop"]) == 0
    assert cluster.calls == [("orders", None, "GET", "/x", [("Coder", "Bob")])]
    out = capsys.readouterr().out
    assert "shop/orders-bob" not in out
    assert "orders-bob" in out


def test_leave_through_the_session_and_without_it(daemon, cluster, capsys):
    cluster.current = samples.STATUS
    assert run(["leave", "orders-bob", "-n", "shop"]) == 0
    assert cluster.deleted == ["shop/orders-bob"]
    daemon.there = True
    capsys.readouterr()
    assert run(["leave", "cart-bob", "-n", "shop"]) == 0
    assert daemon.removed[-1] == "shop/cart-bob"
    assert one_line(capsys.readouterr().out) == "✓ left cart-bob: its requests go to the pods again"


def test_leave_all_is_of_every_namespace_or_of_one(daemon, cluster):
    daemon.there = True
    assert run(["leave", "--all", "-n", "other"]) == 0
    assert daemon.removed == []
    assert run(["leave", "--all", "--context", "lab"]) == 0
    assert daemon.removed == ["shop/orders-bob", "shop/cart-bob"]


def test_leave_of_somebody_else_s_needs_force(daemon, cluster, capsys):
    cluster.current = samples.STATUS
    assert run(["leave", "orders-all", "-n", "shop"]) == 3
    assert "The intercept shop/orders-all is alice's." in capsys.readouterr().err
    assert run(["leave", "orders-all", "-n", "shop", "--force"]) == 0
    assert cluster.deleted == ["shop/orders-all"]


def test_leave_where_one_may_not_list(daemon, cluster, capsys):
    cluster.current = Refused("bob may not list intercepts.tpnet.dev in other.", "Ask.")
    daemon.there = True
    assert run(["leave", "shop/orders-bob", "-n", "other"]) == 0
    assert run(["leave", "nope", "-n", "other"]) == 5
    assert "bob may not list" in capsys.readouterr().err


@pytest.fixture
def socket_there(home):
    """The socket of a daemon of this context."""
    from tpnet_cli.where import choose

    key = choose(namespace="shop")._of_session.key
    (home / "sessions").mkdir()
    (home / "sessions" / f"bob-example.org.{key}.sock").touch()


def test_without_the_api_server_the_session_can_be_left_and_ended(daemon, cluster, socket_there, capsys):
    cluster.away = NotThere("The API server does not answer.", "Is it up?")
    daemon.there, daemon.told = True, False
    assert run(["leave", "orders-bob", "-n", "shop"]) == 0
    assert daemon.removed == ["shop/orders-bob"]
    assert "the API server does not answer: what it may have" in one_line(capsys.readouterr().out)
    assert run(["leave", "nope", "-n", "shop"]) == 5
    assert "The API server does not answer." in capsys.readouterr().err
    assert run(["quit", "-n", "shop"]) == 0
    assert daemon.quitted
    assert "bob@example.org's session is over; left shop/orders-bob, shop/cart-bob" in capsys.readouterr().out


def test_without_the_api_server_and_without_a_session_that_is_said(daemon, cluster, capsys):
    cluster.away = NotThere("The API server does not answer.", "Is it up?")
    for command in (["leave", "a"], ["quit"], ["list"], ["status"]):
        assert run([*command, "-n", "shop"]) == 5
        assert "✗ The API server does not answer.\n  Is it up?\n" in capsys.readouterr().err


def test_quit_asks_who_one_is_only_if_it_must(daemon, cluster, socket_there, capsys):
    daemon.there = True
    assert run(["quit", "-n", "shop", "-o", "json"]) == 0
    assert cluster.options is None
    assert json.loads(capsys.readouterr().out)["user"] == "bob@example.org"
    daemon.there = False  # the socket is all that is left
    assert run(["quit", "-n", "shop"]) == 0
    assert cluster.options is not None
    assert "has no session on this computer" in capsys.readouterr().out


def test_version_tells_the_agents_and_whether_they_go_together(cluster, capsys):
    assert run(["version", "-n", "shop"]) == 0
    assert capsys.readouterr() == ("tpnet  0.1.0\nagent  0.1.0\n", "")
    assert cluster.options.request_timeout == 5.0
    other = dataclasses.replace(samples.AGENT, version="1.2.0")
    cluster.current = dataclasses.replace(cluster.current, agent=other)
    assert run(["version", "-n", "shop"]) == 0
    assert "! This is tpnet 0.1.0, and the cluster has agents of 1.2.0." in capsys.readouterr().err
    cluster.away = NotThere("away")
    assert run(["version", "-n", "shop"]) == 0
    assert capsys.readouterr().out.endswith("tpnet  0.1.0\n")


def test_status_tells_of_versions_that_do_not_go_together(daemon, cluster, capsys):
    other = dataclasses.replace(samples.AGENT, version="1.2.0")
    cluster.current = dataclasses.replace(cluster.current, agent=other)
    assert run(["status", "-n", "shop"]) == 0
    assert "Upgrade tpnet on this computer." in one_line(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("intercept -n shop or", ["orders"]),
        ("intercept -n shop svc/", ["svc/cart", "svc/orders"]),
        ("intercept -n shop orders --port ", ["80", "9090"]),
        ("intercept orders -n shop --port 8080:9", ["8080:9090"]),
        ("explain -n shop ca", ["cart"]),
        ("leave -n shop ", ["orders-bob"]),
        ("leave -n shop orders-bob o", []),
        ("watch -n shop o", ["orders-bob"]),
        ("list -n sh", ["shop"]),
    ],
)
def test_the_shell_is_offered(line, words, cluster, monkeypatch, capsys):
    monkeypatch.delenv("TPNET_RUN_DIR")
    monkeypatch.setenv("_TPNET_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", f"tpnet {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
    with pytest.raises(SystemExit):
        run([])
    out, err = capsys.readouterr()
    assert err == ""
    offered = out.split("\n")[1::3]
    assert [word.replace("\\:", ":") for word in offered if word] == words


def test_the_shell_is_told_nothing_of_failures(cluster, monkeypatch, capsys):
    cluster.away = RuntimeError("boom")
    monkeypatch.delenv("TPNET_RUN_DIR")
    monkeypatch.setenv("_TPNET_COMPLETE", "bash_complete")
    for line in ("intercept o", "leave o", "list -n o", "intercept a --port "):
        monkeypatch.setenv("COMP_WORDS", f"tpnet {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
        with pytest.raises(SystemExit):
            run([])
        out, err = capsys.readouterr()
        assert (out.strip(), err) == ("", "")


def test_the_shell_is_offered_a_local_agents_intercepts(agent, monkeypatch, capsys):
    agent.busy()
    monkeypatch.setenv("_TPNET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "tpnet leave shop")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        run([])
    assert shlex.split(capsys.readouterr().out) == ["plain,shop-all", "plain,shop-bob"]
