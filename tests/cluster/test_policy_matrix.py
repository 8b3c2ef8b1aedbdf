"""Who may do what with tpnet's objects, asked of a real API server, with what a user reads.

Test ids name the threat that a row stands against.
"""

import secrets

import pytest
import yaml
from kubelab.tools import wait_until
from who import MERGE, admin, bearer, nobody, path, person

from tpnet.control.kubernetes.grant import Subject, bindings
from tpnet.control.kubernetes.install import manifests

KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
NOW = "2026-01-01T00:00:00.000000Z"
ACCOUNT = "tpnet-agent"


def unique(prefix):
    return f"{prefix}-{secrets.token_hex(3)}"


def intercept(user, name="i", **spec):
    return {
        "metadata": {"name": name},
        "spec": {
            "user": user,
            "session": f"{user}-1",
            "target": {"kind": "Service", "name": "orders"},
            "headers": [{"name": "Coder", "value": user}],
            "tunnelPort": 20000,
            **spec,
        },
    }


def session(user, name):
    return {"metadata": {"name": name}, "spec": {"user": user, "publicKey": KEY, "renewTime": NOW}}


def node_agent(name):
    spec = {
        "publicKey": KEY,
        "tunnelAddress": "fd00::1",
        "endpoints": ["192.0.2.1:21820"],
        "heartbeatPort": 20,
        "mtu": 1280,
    }
    return {"metadata": {"name": name}, "spec": spec}


def part(node, ready=1):
    return {"status": {"nodes": [{"node": node, "ready": ready, "total": 1}]}}


def bind(cluster, user, namespaces, **more):
    for resource, obj in bindings(Subject("User", user), namespaces, **more):
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        where = resource.path(obj["metadata"].get("namespace", ""))
        cluster.api("POST", where, body)


@pytest.fixture(scope="module")
def installed(cluster):
    """Kinds, rights and policies; no agents."""
    objects = [obj for obj in manifests() if obj["kind"] != "DaemonSet"]
    cluster.apply(yaml.safe_dump_all(objects))
    probe = intercept("nobody-at-all")
    # A policy is enforced a moment after it was made.
    with cluster.namespace("policy", wait=False) as name:
        wait_until(
            lambda: "spec.user is" in admin(cluster).create("intercepts", name, probe).message,
            30,
            "the policies",
        )
    return cluster


class Cast:
    """The people and namespaces of one test module."""

    def __init__(self, cluster, shop, other):
        self.cluster, self.shop, self.other = cluster, shop, other
        tag = secrets.token_hex(3)
        self.bob_name, self.dave_name, self.eve_name = f"bob-{tag}", f"dave-{tag}", f"eve-{tag}"
        self.gina_name, self.ada_name = f"gina-{tag}", f"ada-{tag}"
        self.bob, self.dave, self.eve = (
            person(cluster, name) for name in (self.bob_name, self.dave_name, self.eve_name)
        )
        self.gina, self.ada = person(cluster, self.gina_name), person(cluster, self.ada_name)
        self.admin = admin(cluster)
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        asked = self.admin.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        self.root_name = asked.body["status"]["userInfo"]["username"]
        bind(cluster, self.bob_name, [shop])
        bind(cluster, self.dave_name, [shop])
        bind(cluster, self.gina_name, [shop], everybodys=True)
        bind(cluster, self.ada_name, [shop], admin=True)


@pytest.fixture(scope="module")
def cast(installed):
    """Bob and Dave are developers in shop, Gina may make global intercepts there, Ada is tpnet's admin, Eve has nothing."""
    with installed.namespace("shop", wait=False) as shop, installed.namespace("other", wait=False) as other:
        people = Cast(installed, shop, other)
        wait_until(lambda: people.ada.get("sessions", "tpnet").allowed, 10, "the grants")
        yield people
        for name in (people.bob_name, people.dave_name, people.gina_name, people.ada_name):
            for resource, obj in bindings(Subject("User", name), [], everybodys=True, admin=True):
                meta = obj["metadata"]
                people.admin.ask("DELETE", resource.path(meta.get("namespace", ""), meta["name"]))


@pytest.fixture(scope="module")
def tokens(installed):
    """Tokens of agents: of a pod on each node as the kubelet would give it, and one of no pod."""
    names = {}
    pods = "/api/v1/namespaces/tpnet/pods"
    for node in ("n1", "n2"):
        names[node] = unique("stand-in")
        spec = {
            "nodeName": node,
            "serviceAccountName": ACCOUNT,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "app", "image": "localhost/shop:1", "imagePullPolicy": "Never"}],
        }
        installed.api("POST", pods, {"metadata": {"name": names[node]}, "spec": spec})
    yield {
        "n1": token(installed, ACCOUNT, "tpnet", pod=names["n1"]),
        "n2": token(installed, ACCOUNT, "tpnet", pod=names["n2"]),
        "unbound": token(installed, ACCOUNT, "tpnet"),
    }
    for name in names.values():
        installed.api("DELETE", f"{pods}/{name}?gracePeriodSeconds=0")


def token(cluster, account, namespace, pod="", audience=""):
    where = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    spec = {"audiences": [audience] if audience else []}
    if pod:
        uid = cluster.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
    return cluster.api("POST", where, {"spec": spec})["status"]["token"]


@pytest.fixture
def agents(cast, tokens):
    """The agents of both nodes."""
    return {name: bearer(cast.cluster, text) for name, text in tokens.items()}


@pytest.fixture
def bobs(cast):
    """An intercept of Bob's."""
    name = unique("bobs")
    answer = cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, name))
    assert answer.allowed, answer.message
    yield name
    cast.admin.delete("intercepts", cast.shop, name)


@pytest.fixture
def bobs_session(cast):
    """A session of Bob's."""
    name = unique("bob")
    answer = cast.bob.create("sessions", "tpnet", session(cast.bob_name, name))
    assert answer.allowed, answer.message
    yield name
    cast.admin.delete("sessions", "tpnet", name)


def refused(answer, *words, code=403):
    assert answer.code == code, (answer.code, answer.message)
    for text in words:
        assert text in answer.message, answer.message


# T01: somebody without rights, or not known at all.


@pytest.mark.parametrize(
    ("method", "where", "body"),
    [
        ("GET", "intercepts", None),
        ("POST", "intercepts", intercept("eve")),
        ("GET", "intercepts?watch=1", None),
        ("DELETE", "intercepts/i", None),
    ],
)
def test_t01_nobody_known_and_strangers_are_turned_away(cast, method, where, body):
    asked = f"{path('intercepts', cast.shop).removesuffix('intercepts')}{where}"
    refused(nobody(cast.cluster).ask(method, asked, body), 'User "system:anonymous" cannot')
    refused(bearer(cast.cluster, "no-token").ask(method, asked, body), code=401)
    wrong = token(cast.cluster, "default", cast.shop, audience="somebody-else")
    refused(bearer(cast.cluster, wrong).ask(method, asked, body), code=401)
    other_pods = bearer(cast.cluster, token(cast.cluster, "default", cast.shop))
    refused(other_pods.ask(method, asked, body), "cannot")


@pytest.mark.parametrize("plural", ["sessions", "nodeagents"])
def test_t01_nobody_without_a_grant_sees_sessions_or_agents(cast, plural):
    where = "tpnet" if plural == "sessions" else ""
    for who in (
        nobody(cast.cluster),
        cast.eve,
        bearer(cast.cluster, token(cast.cluster, "default", cast.shop)),
    ):
        refused(who.get(plural, where), f'cannot list resource "{plural}"')


def test_t01_an_expired_certificate_is_none(cast):
    answer = cast.cluster.kubectl(
        "get",
        "tpi",
        "-A",
        kubeconfig=cast.cluster.kubeconfig(cast.bob_name, at="host", days=-1),
        check=False,
    )
    assert answer.returncode != 0


# T02: a developer outside of the namespaces granted.


def test_t02_a_developer_works_where_granted_and_nowhere_else(cast):
    name = unique("i")
    made = cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, name))
    assert made.allowed, made.message
    assert cast.bob.delete("intercepts", cast.shop, name).allowed
    refused(
        cast.bob.create("intercepts", cast.other, intercept(cast.bob_name)),
        f'cannot create resource "intercepts" in API group "tpnet.dev" in the namespace "{cast.other}"',
    )
    refused(cast.bob.get("intercepts", cast.other), 'cannot list resource "intercepts"')


def test_t02_an_intercept_is_its_makers(cast):
    refused(
        cast.bob.create("intercepts", cast.shop, intercept(cast.dave_name)),
        f"spec.user is {cast.dave_name}, and you are {cast.bob_name}. An intercept belongs to whoever makes it: "
        "write your own name.",
    )


def test_t02_not_even_the_administrator_makes_one_in_anothers_name(cast):
    refused(
        cast.admin.create("intercepts", cast.shop, intercept(cast.bob_name)), f"spec.user is {cast.bob_name}"
    )


def test_t02_who_may_impersonate_is_whom_he_says(cast):
    name = unique("i")
    made = cast.bob.apply("intercepts", cast.shop, name, {"spec": intercept(cast.bob_name)["spec"]})
    assert made.code == 201, made.message
    assert cast.bob.delete("intercepts", cast.shop, name).allowed


def test_t02_nobody_else_may_impersonate(cast):
    answer = cast.cluster.kubectl(
        "get",
        "--raw",  # without discovery, which is refused with fewer words
        path("intercepts", cast.shop),
        "--as",
        cast.bob_name,
        kubeconfig=cast.cluster.kubeconfig(cast.eve_name, at="host"),
        check=False,
    )
    assert "cannot impersonate resource" in answer.stderr


def test_t02_the_verb_of_global_intercepts_can_be_given_for_one_name(cast):
    name, tag = unique("nightly"), secrets.token_hex(3)
    rule = {
        "apiGroups": ["tpnet.dev"],
        "resources": ["intercepts"],
        "verbs": ["intercept-all"],
        "resourceNames": [name],
    }
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cast.shop}"
    cast.cluster.api("POST", f"{role}/roles", {"metadata": {"name": tag}, "rules": [rule]})
    binding = {
        "metadata": {"name": tag},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": tag},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": cast.dave_name}],
    }
    cast.cluster.api("POST", f"{role}/rolebindings", binding)
    wait_until(
        lambda: (
            cast.dave.create("intercepts", cast.shop, intercept(cast.dave_name, name, headers=[])).allowed
        ),
        10,
        "the role",
    )
    refused(
        cast.dave.create("intercepts", cast.shop, intercept(cast.dave_name, "x", headers=[])), "intercept-all"
    )
    assert cast.dave.delete("intercepts", cast.shop, name).allowed


# T03: one developer with another's session or intercept.


def test_t03_a_session_is_renewed_by_its_owner_who_sees_it_in_the_answer(cast, bobs_session):
    later = {"spec": {"renewTime": "2026-01-01T00:00:10.123456Z"}}
    renewed = cast.bob.merge("sessions", "tpnet", bobs_session, later)
    assert renewed.allowed, renewed.message
    unchanged = cast.bob.merge("sessions", "tpnet", bobs_session, {})
    assert unchanged.body["spec"] == renewed.body["spec"]
    assert cast.bob.delete("sessions", "tpnet", bobs_session).allowed


@pytest.mark.parametrize("patch", [{}, {"spec": {"renewTime": NOW}}, {"metadata": {"labels": {"a": "b"}}}])
def test_t03_nobody_else_renews_or_sees_a_session(cast, bobs_session, patch):
    answer = cast.dave.merge("sessions", "tpnet", bobs_session, patch)
    refused(
        answer,
        f"The session {bobs_session} is not yours, and only its owner can renew or see it. Begin one of your own.",
    )
    assert KEY not in str(answer.body)
    assert cast.bob_name not in answer.message
    refused(cast.ada.merge("sessions", "tpnet", bobs_session, patch), "is not yours")
    refused(cast.admin.merge("sessions", "tpnet", bobs_session, patch), "is not yours")


def test_t03_no_developer_reads_sessions_not_even_the_own(cast, bobs_session):
    for who in (cast.bob, cast.dave):
        refused(who.get("sessions", "tpnet", bobs_session), 'cannot get resource "sessions"')
        refused(who.get("sessions", "tpnet"), 'cannot list resource "sessions"')
        refused(who.get("sessions", "tpnet", "?watch=1"), "cannot")


def test_t03_a_session_is_ended_by_its_owner_or_an_admin(cast, bobs_session):
    refused(
        cast.dave.delete("sessions", "tpnet", bobs_session),
        f"The session {bobs_session} is not yours. To end it you need the verb delete-any on sessions.tpnet.dev, which "
        f"{cast.dave_name} does not have. An admin can grant it: bind the ClusterRole tpnet-admin.",
    )
    assert cast.ada.get("sessions", "tpnet", bobs_session).allowed
    assert cast.ada.delete("sessions", "tpnet", bobs_session).allowed


def test_t03_nobody_begins_a_session_in_anothers_name_or_place(cast):
    name = unique("s")
    refused(
        cast.dave.create("sessions", "tpnet", session(cast.bob_name, name)),
        f"spec.user is {cast.bob_name}, and you are {cast.dave_name}. A session belongs to whoever makes it: write your "
        "own name.",
    )
    refused(
        cast.admin.create("sessions", cast.shop, session(cast.root_name, name)),
        f"Sessions live in the namespace tpnet only, not in {cast.shop}.",
    )


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"session": "mine"}},
        {"spec": {"handler": "elsewhere:1"}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}},
        {"metadata": {"finalizers": ["tpnet.dev/stay"]}},
        {},
    ],
)
def test_t03_an_intercept_is_changed_by_its_owner_alone(cast, bobs, patch):
    message = (
        f"The intercept {cast.shop}/{bobs} is {cast.bob_name}'s, and only {cast.bob_name} can change it. Make one of your "
        "own."
    )
    refused(cast.dave.merge("intercepts", cast.shop, bobs, patch), message)
    refused(cast.admin.merge("intercepts", cast.shop, bobs, patch), message)


def test_t03_its_owner_moves_an_intercept_to_a_new_session(cast, bobs):
    moved = cast.bob.merge("intercepts", cast.shop, bobs, {"spec": {"session": "bob-2", "tunnelPort": 20001}})
    assert moved.allowed, moved.message
    assert moved.body["metadata"]["generation"] == 2


def test_t03_an_intercept_is_removed_by_its_owner_or_an_admin(cast, bobs):
    message = (
        f"The intercept {cast.shop}/{bobs} is {cast.bob_name}'s. To remove it you need the verb delete-any on "
        f"intercepts.tpnet.dev, which {cast.dave_name} does not have. An admin can grant it: bind the ClusterRole "
        "tpnet-admin."
    )
    refused(cast.dave.delete("intercepts", cast.shop, bobs), message)
    assert cast.ada.delete("intercepts", cast.shop, bobs).allowed


# T04: everybody's traffic.


def test_t04_a_global_intercept_needs_its_own_verb(cast):
    for path_rule in (None, {"kind": "prefix", "value": "/api"}):
        more = {"headers": []} | ({"path": path_rule} if path_rule else {})
        refused(
            cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, **more)),
            f"A global intercept in {cast.shop} needs the verb intercept-all on intercepts.tpnet.dev, which "
            f"{cast.bob_name} does not have. An admin can grant it: tpnet grant --help, or bind the ClusterRole "
            "tpnet-global.",
        )
        name = unique("all")
        made = cast.gina.create("intercepts", cast.shop, intercept(cast.gina_name, name, **more))
        assert made.allowed, made.message
        assert cast.gina.delete("intercepts", cast.shop, name).allowed


def test_t04_headers_left_out_are_no_global_intercept(cast):
    body = intercept(cast.gina_name)
    del body["spec"]["headers"]
    refused(cast.gina.create("intercepts", cast.shop, body), "spec.headers: Required value", code=422)


def test_t04_a_right_that_was_taken_back_holds_for_changes_too(cast):
    name, late = unique("all"), unique("late")
    bind(cast.cluster, late, [cast.shop], everybodys=True)
    who = person(cast.cluster, late)
    made = []
    wait_until(
        lambda: (
            made.append(who.create("intercepts", cast.shop, intercept(late, name, headers=[])))
            or made[-1].allowed
        ),
        10,
        "the grant",
    )
    for resource, obj in bindings(Subject("User", late), [cast.shop], everybodys=True):
        if obj["roleRef"]["name"] == "tpnet-global":
            cast.cluster.api("DELETE", resource.path(cast.shop, obj["metadata"]["name"]))
    wait_until(
        lambda: who.merge("intercepts", cast.shop, name, {"spec": {"session": unique("s")}}).code == 403,
        10,
        "it",
    )
    assert who.delete("intercepts", cast.shop, name).allowed


@pytest.mark.parametrize(
    ("label", "personal", "everybodys"),
    [
        (
            "none",
            "Nothing may be intercepted in {}: the namespace has the label tpnet.dev/intercept=none.",
            "Nothing may be intercepted in {}",
        ),
        (
            "personal",
            "",
            "Global intercepts are not allowed in {}: the namespace has the label tpnet.dev/intercept=personal.",
        ),
        ("all", "", ""),
        (
            "some",
            "The label tpnet.dev/intercept of the namespace {} is some, which is none of none, personal and all",
            "nothing can be intercepted in it",
        ),
    ],
)
def test_t04_the_label_of_a_namespace_limits_everybody(cast, label, personal, everybodys):
    with cast.cluster.namespace("limited", {"tpnet.dev/intercept": label}, wait=False) as name:
        for text, headers in ((personal, [{"name": "Coder", "value": "x"}]), (everybodys, [])):
            answer = cast.admin.create(
                "intercepts", name, intercept(cast.root_name, unique("i"), headers=headers)
            )
            if text:
                refused(answer, text.format(name))
            else:
                assert answer.allowed, answer.message


@pytest.mark.parametrize("namespace", ["kube-system", "tpnet"])
def test_t14_system_namespaces_are_refused(cast, namespace):
    answer = cast.admin.create("intercepts", namespace, intercept(cast.root_name))
    refused(answer, f"Nothing can be intercepted in {namespace}: it is a system namespace.")


# T07: a key that was stolen.


def test_t07_a_session_that_was_ended_is_gone_and_a_new_key_is_a_new_session(cast, bobs_session, agents):
    other = "B" + KEY[1:]
    changed = cast.bob.merge("sessions", "tpnet", bobs_session, {"spec": {"publicKey": other}})
    refused(changed, "The key of a session cannot be changed. Delete it and make another one.", code=422)
    assert cast.bob.delete("sessions", "tpnet", bobs_session).allowed
    refused(agents["n1"].get("sessions", "tpnet", bobs_session), "not found", code=404)


@pytest.mark.parametrize("seconds", [0, 4, 121, 3600])
def test_t07_leases_are_short(cast, seconds):
    body = session(cast.bob_name, unique("s"))
    body["spec"]["leaseSeconds"] = seconds
    refused(cast.bob.create("sessions", "tpnet", body), "spec.leaseSeconds", code=422)


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
    status = {"status": {"requests": "Coder: Bob", "redirected": "1/2", "conditions": [ready]}}
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
    assert f"orders   {cast.bob_name}   Coder: Bob   False   1/2          Partly" in table


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
