"""tpnet is put into a cluster of its own, changed, and taken out again."""

import asyncio
import threading

import pytest
from conftest import owned
from kubelab.tools import wait_until
from who import admin, person

from tpnet.control.kubernetes import install
from tpnet.control.kubernetes.api import Api
from tpnet.control.kubernetes.client import ClusterOptions, connect
from tpnet.control.kubernetes.grant import Subject, bindings, grant, revoke
from tpnet.control.kubernetes.install import (
    KINDS,
    OURS,
    Change,
    apply,
    installed_version,
    intercepted,
    manifests,
    preview,
    rollout,
    uninstall,
    wait_ready,
)
from tpnet.control.kubernetes.names import MANAGER_INSTALL
from tpnet.model import NotThere, Refused, TpnetError

KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
IMAGE = "localhost/shop:1"  # any that is there: how an agent runs is tested elsewhere


@pytest.fixture(scope="module")
def empty():
    """A cluster without tpnet, and nobody else's."""
    yield from owned(dual=False)


def call(cluster, function, *args, config=None):
    """One of tpnet's own functions, as the administrator or whoever's kubeconfig it is."""

    async def inside():
        async with await Api.from_kubeconfig(str(config or cluster.admin)) as api:
            return await function(api, *args)

    return asyncio.run(inside())


def changes(steps):
    return {step.change for step in steps}


def everything_of_ours(cluster):
    found = []
    for resource in KINDS:
        listed = cluster.get(f"{resource.collection()}?labelSelector={OURS}")["items"]
        found += [f"{resource.kind} {obj['metadata']['name']}" for obj in listed]
    return found


def test_a_preview_changes_nothing(empty):
    call(empty, uninstall)  # what another test has left
    steps = call(empty, preview, manifests())
    assert changes(steps) == {Change.CREATED}
    assert [step.what for step in steps][:2] == ["Namespace tpnet", "ResourceQuota tpnet/tpnet-critical-pods"]
    assert everything_of_ours(empty) == []
    assert call(empty, installed_version) == ""
    assert call(empty, intercepted) == []
    with pytest.raises(NotThere):
        call(empty, rollout)


def test_who_has_no_rights_is_told_that_there_is_nothing_to_have_rights_to(empty):
    call(empty, uninstall)
    config = empty.kubeconfig("eve", ["system:authenticated"], at="host")
    with connect(ClusterOptions(str(config))) as control:
        with pytest.raises(NotThere, match="tpnet is not installed in this cluster"):
            control.status()
        call(empty, apply, manifests())
        with pytest.raises(Refused, match="eve may not list intercepts"):
            control.status()


def test_installing_twice_changes_nothing_the_second_time(empty):
    told = []
    call(empty, apply, manifests(), told.append)
    assert len(told) == len(manifests())
    assert changes(call(empty, apply, manifests())) == {Change.UNCHANGED}
    assert changes(call(empty, preview, manifests())) == {Change.UNCHANGED}
    assert call(empty, installed_version) == "0.1.0"


def test_an_upgrade_says_what_it_changes_and_removes_what_was_left(empty):
    old = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "tpnet-former", "labels": {"app.kubernetes.io/part-of": "tpnet"}},
        "rules": [],
    }
    call(empty, apply, [*manifests(IMAGE), old])
    steps = call(empty, preview, manifests())
    image = "spec.template.spec.containers[0].image"
    told = {step.what: (step.change, step.fields) for step in steps if step.change is not Change.UNCHANGED}
    assert told == {
        "DaemonSet tpnet/tpnet-agent": (Change.CHANGED, (image,)),
        "ClusterRole tpnet-former": (Change.REMOVED, ()),
    }
    assert call(empty, apply, manifests()) == steps
    assert "ClusterRole tpnet-former" not in everything_of_ours(empty)


def test_what_others_labelled_as_ours_stays_when_we_upgrade(empty):
    call(empty, apply, manifests())
    labels = {"app.kubernetes.io/part-of": "tpnet"}
    role = {"metadata": {"name": "somebody-elses", "labels": labels}, "rules": []}
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    empty.api("POST", roles, role)
    assert changes(call(empty, apply, manifests())) == {Change.UNCHANGED}
    assert empty.api("DELETE", f"{roles}/somebody-elses")


def test_waiting_for_agents_says_why_one_is_late(empty):
    call(empty, apply, manifests("localhost/not-there:1"))
    wait_until(lambda: "Pull" in call(empty, rollout).problem, 30, "a reason")
    with pytest.raises(TpnetError, match=r"The agents are ready on 0 of 2 nodes after 1 s\. On node n[12]: "):
        call(empty, wait_ready, 1.0)


def test_who_may_not_install_reads_what_is_missing(empty):
    config = empty.kubeconfig("bob", at="host")
    with pytest.raises(Refused) as caught:
        call(empty, apply, manifests(), config=config)
    assert "bob" in caught.value.message
    assert "namespaces" in caught.value.message


def test_a_grant_lets_a_developer_in_and_revoking_shuts_out(empty):
    call(empty, apply, manifests())
    bob = Subject("User", "bob")
    who = person(empty, "bob")
    with empty.namespace("granted") as name:
        call(empty, grant, bindings(bob, [name]))
        call(empty, grant, bindings(bob, [name]))
        wait_until(lambda: who.get("intercepts", name).allowed, 10, "the grant")
        assert who.get("nodeagents", "").allowed
        assert who.create("sessions", "tpnet", session("bob")).allowed
        assert not who.get("intercepts", "default").allowed
        removed = call(empty, revoke, bob)
        assert removed == [
            f"tpnet-developer in {name}",
            "tpnet-session in tpnet",
            "tpnet-session in all namespaces",
        ]
        wait_until(lambda: not who.get("intercepts", name).allowed, 10, "its end")


def test_who_has_no_right_to_give_cannot_give_it(empty):
    call(empty, apply, manifests())
    with pytest.raises(Refused) as caught:
        call(empty, grant, bindings(Subject("User", "eve"), []), config=empty.kubeconfig("eve", at="host"))
    assert "an admin of the cluster" in caught.value.hint


def session(user, name="s"):
    return {
        "metadata": {"name": name},
        "spec": {"user": user, "publicKey": KEY, "renewTime": "2026-01-01T00:00:00Z"},
    }


def intercept(user):
    return {
        "metadata": {"name": "i"},
        "spec": {
            "user": user,
            "session": "s",
            "target": {"kind": "Service", "name": "orders"},
            "headers": [{"name": "Coder", "value": "Bob"}],
            "tunnelPort": 20000,
        },
    }


def test_uninstalling_leaves_nothing_though_a_daemon_goes_on_asking(empty):
    applied = call(empty, apply, manifests(IMAGE))
    who = person(empty, "bob")
    over = threading.Event()

    def daemon(name):
        while not over.wait(0.05):
            who.create("sessions", "tpnet", session("bob"))
            who.create("intercepts", name, intercept("bob"))

    with empty.namespace("left") as name:
        call(empty, grant, bindings(Subject("User", "bob"), [name], everybodys=True, admin=True))
        asking = threading.Thread(target=daemon, args=(name,))
        asking.start()
        try:
            wait_until(lambda: len(call(empty, intercepted)) == 1, 20, "an intercept")
            steps = call(empty, uninstall)
        finally:
            over.set()
            asking.join()
        assert changes(steps) == {Change.REMOVED}
        gone = {step.what for step in steps}
        assert {f"Intercept {name}/i"} | {step.what for step in applied} <= gone
        assert everything_of_ours(empty) == []
        assert empty.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"] == []
        assert admin(empty).ask("GET", "/api/v1/namespaces/tpnet").code == 404
    assert call(empty, uninstall) == []


def test_uninstalling_ends_whatever_holds_its_objects_and_says_what_is_left(empty, monkeypatch):
    monkeypatch.setattr(install, "_GONE_SECONDS", 6.0)
    call(empty, apply, [obj for obj in manifests(IMAGE) if obj["kind"] != "DaemonSet"])
    hold = {"metadata": {"finalizers": ["example.org/hold"]}}
    who = admin(empty)
    with empty.namespace("left", wait=False) as name:
        for plural in ("bindings", ""):  # with the policies nobody could hold an intercept
            folder = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic{'ybindings' if plural else 'ies'}"
            for one in empty.get(f"{folder}?labelSelector={OURS}")["items"]:
                empty.api("DELETE", f"{folder}/{one['metadata']['name']}")
        held = intercept("bob")
        held["metadata"] |= hold["metadata"]
        wait_until(lambda: who.create("intercepts", name, held).allowed, 20, "an intercept that is held")
        role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/tpnet-global"
        empty.api("PATCH", role, hold, kind="application/merge-patch+json")
        try:
            with pytest.raises(TpnetError) as told:
                call(empty, uninstall)
            assert told.value.message == (
                "All but this is removed: ClusterRole tpnet-global (finalizer example.org/hold)."
            )
            assert empty.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"] == []
        finally:
            empty.api("PATCH", role, {"metadata": {"finalizers": None}}, kind="application/merge-patch+json")
    assert call(empty, uninstall) == []


def test_everything_that_is_applied_is_ours_by_its_manager(empty):
    call(empty, apply, manifests())
    for resource in KINDS:
        for obj in empty.get(f"{resource.collection()}?labelSelector={OURS}")["items"]:
            assert MANAGER_INSTALL in {each["manager"] for each in obj["metadata"]["managedFields"]}
