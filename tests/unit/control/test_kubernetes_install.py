import asyncio

import pytest

from tpnet.control.kubernetes import install
from tpnet.control.kubernetes.grant import Subject, bindings
from tpnet.control.kubernetes.install import Rollout, rollout, skew, wait_ready
from tpnet.model import InvalidInput, TpnetError


class FakeApi:
    """Just enough of an API server for the agents' DaemonSet."""

    def __init__(self, status, pods=()):
        self.status, self.pods = status, pods

    async def get(self, *_):
        return {"metadata": {"generation": 2}, "status": self.status}

    async def list(self, *_, **__):
        return list(self.pods), "1"


def counts(ready, updated, nodes, seen=2):
    return {
        "observedGeneration": seen,
        "numberReady": ready,
        "updatedNumberScheduled": updated,
        "desiredNumberScheduled": nodes,
    }


def late(node="n2", **status):
    return {"spec": {"nodeName": node}, "status": status}


@pytest.mark.parametrize(
    ("ours", "theirs", "sentence"),
    [
        ("0.1.0", [], ""),
        ("0.1.0", ["0.1.0", "0.1.7", ""], ""),
        (
            "0.2.0",
            ["0.1.0", "0.2.0"],
            "This is tpnet 0.2.0, and the cluster has agents of 0.1.0. tpnet install upgrades the cluster.",
        ),
        (
            "0.2.0",
            ["0.3.1"],
            "This is tpnet 0.2.0, and the cluster has agents of 0.3.1. Upgrade tpnet on this computer.",
        ),
    ],
)
def test_versions_that_do_not_go_together_are_told(ours, theirs, sentence):
    assert skew(ours, theirs) == sentence


def test_a_rollout_is_done_when_every_node_has_the_new_agent_ready():
    assert asyncio.run(rollout(FakeApi(counts(2, 2, 2)))).done
    assert not asyncio.run(rollout(FakeApi(counts(2, 1, 2)))).done
    assert not asyncio.run(rollout(FakeApi(counts(2, 2, 2, seen=1)))).done


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        (late(), "On node n2: the agent is starting."),
        (
            late(
                containerStatuses=[
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {
                            "terminated": {"exitCode": 1, "message": "x\nThe kernel is too old.\n"}
                        },
                    }
                ]
            ),
            "On node n2: the agent ended with code 1. The kernel is too old.",
        ),
        (
            late(
                containerStatuses=[
                    {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image\nat all"}}}
                ]
            ),
            "On node n2: ErrImagePull: no such image.",
        ),
        (
            late("", conditions=[{"type": "PodScheduled", "status": "False", "message": "no port is free"}]),
            "On a node: no port is free.",
        ),
        (late(conditions=[{"type": "Ready", "status": "True"}]), ""),
    ],
)
def test_why_an_agent_is_late(pod, problem):
    assert asyncio.run(rollout(FakeApi(counts(1, 2, 2), [pod]))).problem == problem


def test_waiting_tells_each_change_once_and_ends_with_the_reason():
    told = []
    with pytest.raises(
        TpnetError, match=r"ready on 1 of 2 nodes after 1 s\. On node n2: the agent is starting\."
    ):
        asyncio.run(wait_ready(FakeApi(counts(1, 2, 2), [late()]), 0.6, told.append))
    assert told == [Rollout(1, 2, 2, "On node n2: the agent is starting.")]


def test_differences_are_named_by_their_paths():
    before = {"a": {"b": [1, {"c": 2}]}, "d": 1}
    assert list(install._differences(before, {"a": {"b": [1, {"c": 3}]}, "e": 1})) == ["a.b[1].c", "d", "e"]
    assert list(install._differences(before, before)) == []


def test_a_grant_for_a_namespace_binds_the_developer_there_and_the_session():
    wanted = bindings(Subject("User", "bob"), ["shop"])
    assert [(obj["kind"], obj["roleRef"]["name"], where) for obj, where in told(wanted)] == [
        ("Role", "tpnet-session", "tpnet"),
        ("ClusterRole", "tpnet-session", ""),
        ("ClusterRole", "tpnet-developer", "shop"),
    ]


def told(wanted):
    return [
        ({"kind": obj["roleRef"]["kind"], **obj}, obj["metadata"].get("namespace", "")) for _, obj in wanted
    ]


def test_a_grant_without_a_namespace_is_for_all_of_them():
    wanted = bindings(Subject("Group", "team"), [], everybodys=True, admin=True)
    assert [(resource.kind, obj["roleRef"]["name"]) for resource, obj in wanted] == [
        ("RoleBinding", "tpnet-session"),
        ("ClusterRoleBinding", "tpnet-session"),
        ("ClusterRoleBinding", "tpnet-developer"),
        ("ClusterRoleBinding", "tpnet-global"),
        ("ClusterRoleBinding", "tpnet-admin"),
    ]


def test_service_accounts_are_named_with_their_namespace():
    assert Subject("ServiceAccount", "ci/runner").to_json() == {
        "kind": "ServiceAccount",
        "name": "runner",
        "namespace": "ci",
    }
    with pytest.raises(InvalidInput, match="has no namespace"):
        Subject("ServiceAccount", "runner").to_json()
