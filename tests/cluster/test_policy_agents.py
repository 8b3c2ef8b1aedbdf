"""What agents may do, and those that would be one, asked of a real API server.

Test ids name the threat that a row stands against.
"""

import pytest
from kubelab.tools import wait_until
from policy_cast import KEY, NOW, bind, intercept, node_agent, part, refused, unique
from who import MERGE, path, person

# T14, T15, T16: agents, and those that would be one.


def test_t14_an_agent_changes_no_intercept_and_makes_none(cast, agents, bobs):
    refused(
        agents["n1"].merge("intercepts", cast.shop, bobs, {"spec": {"session": "x"}}), "cannot patch resource"
    )
    refused(agents["n1"].create("intercepts", cast.shop, intercept("x")), "cannot create resource")


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("GET", "/api/v1/namespaces/{}/secrets"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/{}/configmaps"),
        ("POST", "/api/v1/namespaces/{}/pods"),
        ("DELETE", "/api/v1/namespaces/{}/pods/x"),
        ("POST", "/api/v1/namespaces/{}/pods/x/exec?command=id"),
        ("GET", "/api/v1/namespaces/{}/pods/x/portforward"),
        ("POST", "/api/v1/namespaces/tpnet/serviceaccounts/tpnet-agent/token"),
        ("GET", "/apis/tpnet.dev/v1alpha1/namespaces/tpnet/sessions"),
        ("PATCH", "/api/v1/nodes/n1"),
        ("PATCH", "/api/v1/namespaces/{}"),
    ],
)
def test_t15_an_agent_may_not(cast, agents, method, where):
    kind = MERGE if method == "PATCH" else "application/json"
    body = {} if method in {"POST", "PATCH"} else None
    refused(agents["n1"].ask(method, where.format(cast.shop), body, kind=kind), "cannot")


def test_t15_an_agent_writes_its_own_nodes_part_of_a_status_alone(cast, agents, bobs):
    for node in ("n1", "n2"):
        done = agents[node].apply("intercepts/status", cast.shop, bobs, part(node), f"tpnet-agent-{node}")
        assert done.allowed, done.message
    found = agents["n1"].get("intercepts", cast.shop, bobs).body["status"]["nodes"]
    assert {each["node"] for each in found} == {"n1", "n2"}
    message = "The agent of node n1 may only write the part of node n1 in status.nodes."
    lie = part("n2", ready=0)
    refused(agents["n1"].apply("intercepts/status", cast.shop, bobs, lie, "tpnet-agent-n2"), message)
    refused(agents["n1"].apply("intercepts/status", cast.shop, bobs, lie, "tpnet-agent-n1"), message)
    refused(agents["n1"].apply("intercepts/status", cast.shop, bobs, part("n3"), "tpnet-agent-n1"), message)
    refused(agents["n1"].merge("intercepts/status", cast.shop, bobs, {"status": {"nodes": []}}), message)
    refused(agents["n1"].merge("intercepts/status", cast.shop, bobs, {"status": None}), message)
    own = agents["n1"].apply("intercepts/status", cast.shop, bobs, {"status": {}}, "tpnet-agent-n1")
    assert own.allowed, own.message
    assert [each["node"] for each in own.body["status"]["nodes"]] == ["n2"]


def test_t15_agents_agree_on_conditions_under_one_manager(cast, agents, bobs):
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Partly",
        "message": "1 of 2.",
        "lastTransitionTime": NOW,
        "observedGeneration": 1,
    }
    status = {"status": {"requests": "Coder: #cd9fb1e1", "redirected": "1/2", "conditions": [ready]}}
    for node in ("n1", "n2"):
        done = agents[node].apply("intercepts/status", cast.shop, bobs, status, "tpnet-conditions")
        assert done.allowed, done.message
    table = cast.cluster.kubectl("get", "tpi", "-n", cast.shop, bobs).stdout
    assert table.split("\n")[0].split() == [
        "NAME",
        "TARGET",
        "USER",
        "REQUESTS",
        "READY",
        "REDIRECTED",
        "REASON",
        "AGE",
    ]
    assert f"orders   {cast.bob_name}   Coder: #cd9fb1e1   False   1/2          Partly" in table


def test_t15_an_agent_writes_its_own_nodeagent_alone(cast, agents):
    mine = agents["n1"].apply("nodeagents", "", "n1", {"spec": node_agent("n1")["spec"]})
    assert mine.allowed, mine.message
    who = "system:serviceaccount:tpnet:tpnet-agent"
    message = f"The NodeAgent n1 is written by the agent on node n1 alone, and {who}"
    refused(
        agents["n2"].apply("nodeagents", "", "n1", {"spec": node_agent("n1")["spec"]}),
        f"{message} runs on node n2.",
    )
    refused(
        agents["unbound"].apply("nodeagents", "", "n1", {"spec": node_agent("n1")["spec"]}),
        f"{message} is none.",
    )
    refused(
        agents["n2"].merge("nodeagents", "", "n1", {"spec": {"publicKey": KEY}}),
        f"{message} runs on node n2.",
    )
    refused(
        agents["n1"].create("nodeagents", "", node_agent("n3")), "is written by the agent on node n3 alone"
    )
    refused(
        agents["n2"].delete("nodeagents", "", "n1"),
        "The NodeAgent n1 is removed by the agent on node n1 alone.",
    )
    assert cast.bob.get("nodeagents", "", "n1").body["spec"]["publicKey"] == KEY
    assert agents["n1"].delete("nodeagents", "", "n1").allowed


def test_t15_a_token_of_no_pod_is_no_agents(cast, agents, bobs, bobs_session):
    who = "system:serviceaccount:tpnet:tpnet-agent"
    refused(
        agents["unbound"].apply("intercepts/status", cast.shop, bobs, part("n1")),
        f"The status of an intercept is written by the agents alone, each known by the node that its pod runs on; {who} "
        "is none.",
    )
    refused(agents["unbound"].delete("intercepts", cast.shop, bobs), "verb delete-any")
    refused(agents["unbound"].delete("sessions", "tpnet", bobs_session), "verb delete-any")


def test_t16_who_is_no_agent_writes_nothing_of_theirs(cast, bobs):
    refused(
        cast.bob.apply("intercepts/status", cast.shop, bobs, part("n1")),
        'cannot patch resource "intercepts/status"',
    )
    refused(
        cast.admin.apply("intercepts/status", cast.shop, bobs, part("n1")), "is written by the agents alone"
    )
    refused(cast.bob.create("nodeagents", "", node_agent("n9")), 'cannot create resource "nodeagents"')
    refused(cast.admin.create("nodeagents", "", node_agent("n9")), "is written by the agent on node n9 alone")


def test_t16_a_status_that_comes_with_the_intercept_counts_for_nothing(cast):
    name = unique("i")
    made = cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, name) | part("n1"))
    assert made.allowed, made.message
    assert "status" not in made.body
    changed = cast.bob.merge("intercepts", cast.shop, name, part("n1"))
    assert changed.allowed
    assert "status" not in changed.body
    assert cast.bob.delete("intercepts", cast.shop, name).allowed


def test_t16_agents_drop_what_has_no_session_any_more(cast, agents, bobs, bobs_session):
    assert agents["n1"].delete("intercepts", cast.shop, bobs).allowed
    assert agents["n2"].get("sessions", "tpnet", bobs_session).body["spec"]["user"] == cast.bob_name
    assert agents["n2"].delete("sessions", "tpnet", bobs_session).allowed


# The cluster's own controllers.


def test_a_namespace_goes_with_the_intercepts_in_it(cast):
    late = unique("late")
    with cast.cluster.namespace("going", wait=True) as name:
        bind(cast.cluster, late, [name])
        who = person(cast.cluster, late)
        wait_until(lambda: who.create("intercepts", name, intercept(late)).allowed, 10, "the grant")


def test_an_intercept_whose_owner_asks_for_it_goes_in_the_foreground(cast, bobs):
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
    assert cast.bob.ask("DELETE", path("intercepts", cast.shop, bobs), options).allowed
    wait_until(lambda: cast.admin.get("intercepts", cast.shop, bobs).code == 404, 20, "its end")


def test_a_nodeagent_goes_when_its_node_goes(cast, tokens):
    node = cast.cluster.api("POST", "/api/v1/nodes", {"metadata": {"name": unique("short-lived")}})[
        "metadata"
    ]
    owner = {"apiVersion": "v1", "kind": "Node", "name": node["name"], "uid": node["uid"]}
    body = node_agent(node["name"])
    body["metadata"]["ownerReferences"] = [owner]
    agent = person(cast.cluster, "system:serviceaccount:tpnet:tpnet-agent")
    extra = {"Impersonate-Extra-authentication.kubernetes.io%2fnode-name": node["name"]}
    agent = type(agent)(cast.cluster, agent.headers | extra)
    made = agent.create("nodeagents", "", body)
    assert made.allowed, made.message
    cast.cluster.api("DELETE", f"/api/v1/nodes/{node['name']}")
    wait_until(lambda: cast.admin.get("nodeagents", "", node["name"]).code == 404, 30, "its end")
