import json

import cli_cluster_samples as samples
import pytest

from tpnet.control.kubernetes import grant, install
from tpnet.control.kubernetes.install import Change, Rollout, Step
from tpnet.model import Refused, TpnetError
from tpnet_cli.main import run

STEPS = [
    Step("Namespace tpnet", Change.UNCHANGED),
    Step("DaemonSet tpnet/tpnet-agent", Change.CHANGED, ("a.b", "c", "d", "e")),
    Step("ClusterRole tpnet-old", Change.REMOVED),
]
OBJECT = {
    "metadata": {"namespace": "shop", "name": "orders-bob"},
    "spec": {"user": "bob", "target": {"kind": "Service", "name": "orders"}},
}


@pytest.fixture
def work(home, monkeypatch):
    """What is asked of the cluster, by name, and what it answers."""
    asked = {}

    def answer(module, name, value):
        async def function(api, *args, **kwargs):
            asked[name] = args
            if isinstance(value, Exception):
                raise value
            for told in args:
                if callable(told) and isinstance(value, list):
                    for step in value:
                        told(step)
            return value

        monkeypatch.setattr(module, name, function)

    fake = samples.FakeCluster()
    monkeypatch.setattr("tpnet.control.kubernetes.client.connect", fake.connect)
    for name, value in (
        ("apply", STEPS), ("preview", STEPS), ("wait_ready", Rollout(2, 2, 2)), ("uninstall", STEPS[1:]),
        ("intercepted", [OBJECT]), ("installed_version", "0.1.0"),
    ):  # fmt: skip
        answer(install, name, value)
    answer(grant, "grant", None)
    answer(grant, "revoke", ["tpnet-developer in shop"])
    asked["answer"] = answer
    asked["cluster"] = fake
    return asked


@pytest.mark.parametrize("command", ["install", "upgrade"])
def test_install_tells_what_is_another_than_before(command, work, capsys):
    assert run([command]) == 0
    out = capsys.readouterr().out
    assert "unchanged Namespace" not in out
    assert "  changed   DaemonSet tpnet/tpnet-agent   a.b, c, d, and 1 more\n" in out
    assert "tpnet 0.1.0 is installed: 1 unchanged, 1 changed, 1 removed." in out
    assert "next   tpnet grant USER -n NAMESPACE" in out
    assert "wait_ready" not in work


def test_install_wide_tells_all_of_it(work, capsys):
    assert run(["install", "-o", "wide"]) == 0
    out = capsys.readouterr().out
    assert "  unchanged Namespace tpnet" in out
    assert "a.b, c, d, e" in out


def test_install_waits_if_asked(work, capsys):
    assert run(["install", "--wait", "--timeout", "7", "--image", "example.org/agent:2"]) == 0
    assert "✓ agents    ready on 2/2 nodes" in capsys.readouterr().out
    assert work["wait_ready"][0] == 7
    images = [
        obj["spec"]["template"]["spec"]["containers"][0]["image"]
        for obj in work["apply"][0]
        if obj["kind"] == "DaemonSet"
    ]
    assert images == ["example.org/agent:2"]


def test_agents_that_do_not_come_up_are_a_failure(work, capsys):
    work["answer"](install, "wait_ready", TpnetError("The agents are ready on 1 of 2 nodes.", "Look."))
    assert run(["install", "--wait"]) == 1
    assert "1 of 2 nodes" in capsys.readouterr().err


def test_a_dry_run_applies_nothing(work, capsys):
    assert run(["install", "--dry-run"]) == 0
    assert "apply" not in work
    assert (
        "Nothing was changed. Without --dry-run: 1 unchanged, 1 changed, 1 removed."
        in capsys.readouterr().out
    )
    assert run(["install", "--dry-run", "--wait"]) == 2


def test_install_as_data(work, capsys):
    assert run(["install", "--wait", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["steps"][1] == {
        "what": "DaemonSet tpnet/tpnet-agent",
        "change": "changed",
        "fields": ["a.b", "c", "d", "e"],
    }
    assert said["agents"]["ready"] == 2


def test_a_missing_right_is_said(work, capsys):
    work["answer"](install, "apply", Refused("bob may not patch namespaces.", "Needs cluster-admin."))
    assert run(["install"]) == 3
    assert "✗ bob may not patch namespaces.\n  Needs cluster-admin.\n" in capsys.readouterr().err


def test_uninstall_names_what_ends_and_asks(work, capsys, monkeypatch):
    assert run(["uninstall"]) == 2
    err = capsys.readouterr().err
    assert "1 intercept would end:\n  shop/orders-bob   bob   Service orders\n" in err
    assert "With --yes it is not asked." in err
    assert "uninstall" not in work
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code, done in (("n", 130, False), ("y", 0, True)):
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text, answer=answer: answer)
        assert run(["uninstall"]) == code
        assert ("uninstall" in work) is done
        shown = capsys.readouterr()
        assert ("Nothing was removed." in shown.err) is not done
    assert "✓ removed   tpnet is gone: 2 objects" in shown.out


def test_uninstall_of_nothing_is_no_failure(work, capsys):
    work["answer"](install, "uninstall", [])
    assert run(["uninstall", "--yes"]) == 0
    assert capsys.readouterr().out == "tpnet is not installed in https://cluster.\n"
    assert run(["uninstall", "--yes", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"steps": []}


def roles(work):
    return [(obj["roleRef"]["name"], obj["metadata"].get("namespace", "")) for _, obj in work["grant"][0]]


def test_grant_is_of_the_contexts_namespace_unless_said_otherwise(work, capsys):
    assert run(["grant", "bob"]) == 0
    assert ("tpnet-developer", "default") in roles(work)
    assert "✓ bob may now make intercepts in default\n" in capsys.readouterr().out
    assert run(["grant", "bob", "-n", "shop", "-n", "cart", "--global"]) == 0
    assert {("tpnet-developer", "shop"), ("tpnet-global", "cart")} <= set(roles(work))
    assert run(["grant", "dev", "--group", "-A", "--admin", "-o", "json"]) == 0
    assert ("tpnet-admin", "") in roles(work)
    capsys.readouterr()
    assert run(["grant", "dev", "-A", "-n", "shop"]) == 2


def test_grant_to_groups_and_service_accounts(work, capsys):
    assert run(["grant", "ci/robot", "--service-account", "-n", "shop", "-o", "wide"]) == 0
    out = capsys.readouterr().out
    assert "  bound  tpnet-developer   in shop\n" in out
    assert "back   tpnet revoke ci/robot --service-account\n" in out
    assert work["grant"][0][0][1]["subjects"] == [
        {"kind": "ServiceAccount", "name": "robot", "namespace": "ci"}
    ]
    assert run(["grant", "robot", "--service-account"]) == 2
    assert "NAMESPACE/NAME" in capsys.readouterr().err


def test_revoke_says_what_it_took(work, capsys):
    assert run(["revoke", "bob"]) == 0
    assert capsys.readouterr().out == "✓ taken from bob\n  tpnet-developer in shop\n"
    work["answer"](grant, "revoke", [])
    assert run(["revoke", "dev", "--group"]) == 0
    assert capsys.readouterr().out == "dev had nothing that tpnet grant gave.\n"
    assert run(["revoke", "dev", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
