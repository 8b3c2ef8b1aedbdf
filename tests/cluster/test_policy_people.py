"""What people may do with tpnet's objects, asked of a real API server, with what they read.

Test ids name the threat that a row stands against.
"""

import secrets

import pytest
from kubelab.tools import wait_until
from policy_cast import KEY, NOW, bind, intercept, refused, session, token, unique
from who import bearer, nobody, path, person

from tpnet.control.kubernetes.grant import Subject, bindings
from tpnet.rules.personal import EVERYBODYS, EVERYBODYS_PREFIXES

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
            "Only personal intercepts are allowed in {}: the namespace has the label tpnet.dev/intercept=personal.",
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


EVERYBODYS_RULES = [
    {"name": spelled, "value": value, "regex": regex}
    for header in sorted(EVERYBODYS) + [prefix + "x" for prefix in EVERYBODYS_PREFIXES]
    for spelled, value, regex in ((header, "shop", False), (header.title(), ".+", True))
] + [{"name": "Coder", "value": "B.+", "regex": True}]


def test_t04_what_every_request_has_makes_no_intercept_personal(cast):
    """Each such header by itself and all at once, exact and by regex, whatever its case."""
    sets = [[rule] for rule in EVERYBODYS_RULES[::5]] + [
        EVERYBODYS_RULES[at : at + 30] for at in range(0, 240, 30)
    ]
    for headers in filter(None, sets):
        answer = cast.bob.create(
            "intercepts", cast.shop, intercept(cast.bob_name, unique("i"), headers=headers)
        )
        refused(answer, "needs the verb intercept-all")
        assert "singles nobody out" in answer.message
    own = {"name": "Coder", "value": "Bob"}
    for headers in ([own], [EVERYBODYS_RULES[0], own], [own, EVERYBODYS_RULES[-1]]):
        name = unique("i")
        answer = cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, name, headers=headers))
        assert answer.allowed, answer.message
        assert cast.bob.delete("intercepts", cast.shop, name).allowed


@pytest.mark.parametrize(
    "name", ["../pods", "a/b", "a?b=c", "a#b", "..", ".", "A", "a b", "a%2fb", "a\nb", "-a", "a."]
)
@pytest.mark.parametrize("field", ["session", "target"])
def test_names_in_a_spec_are_names(cast, field, name):
    body = intercept(cast.bob_name, unique("i"))
    if field == "session":
        body["spec"]["session"] = name
    else:
        body["spec"]["target"]["name"] = name
    refused(cast.bob.create("intercepts", cast.shop, body), "should match", code=422)


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


# A finalizer keeps what is deleted. Sessions and intercepts can have none.

HOLD = {"metadata": {"finalizers": ["example.org/hold"]}}


def held(cast, plural, name):
    """An object of Bob's with a finalizer from before there was a rule against it."""
    where = "tpnet" if plural == "sessions" else cast.shop
    body = session(cast.bob_name, name) if plural == "sessions" else intercept(cast.bob_name, name)
    policy = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/tpnet-" + plural
    binding = cast.cluster.get(policy)
    cast.cluster.api("DELETE", policy)
    body["metadata"] |= HOLD["metadata"]
    made = []
    wait_until(
        lambda: made.append(cast.bob.create(plural, where, body)) or made[-1].allowed,
        20,
        "no policy any more",
    )
    for field in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
        binding["metadata"].pop(field, None)
    cast.cluster.api("POST", policy.rpartition("/")[0], binding)

    def refuses():
        probe = unique("probe")
        body = session("nobody", probe) if plural == "sessions" else intercept("nobody", probe)
        answer = cast.bob.create(plural, where, body)
        cast.admin.delete(plural, where, probe)
        return answer.code == 403

    wait_until(refuses, 20, "the policy again")
    return where


@pytest.mark.parametrize("plural", ["sessions", "intercepts"])
def test_owners_set_no_finalizers_and_an_admin_frees_what_has_one(cast, plural):
    where = "tpnet" if plural == "sessions" else cast.shop
    name = unique("f")
    body = session(cast.bob_name, name) if plural == "sessions" else intercept(cast.bob_name, name)
    assert cast.bob.create(plural, where, body).allowed
    refused(cast.bob.merge(plural, where, name, HOLD), "cannot have a finalizer")
    body["metadata"] = {"name": unique("f"), **HOLD["metadata"]}
    refused(cast.bob.create(plural, where, body), "cannot have a finalizer")
    assert cast.bob.delete(plural, where, name).allowed

    name = unique("f")
    held(cast, plural, name)
    try:
        assert cast.ada.delete(plural, where, name).allowed
        assert cast.admin.get(plural, where, name).body["metadata"]["deletionTimestamp"]
        changed = {"metadata": {"finalizers": None, "labels": {"a": "b"}}, "spec": {"user": cast.ada_name}}
        assert not cast.ada.merge(plural, where, name, changed).allowed
        refused(cast.ada.merge(plural, where, name, {"metadata": {"finalizers": ["a/b", "c/d"]}}), code=422)
        refused(cast.dave.merge(plural, where, name, {"metadata": {"finalizers": None}}))
        for more in (
            {"labels": {"a": "b"}},
            {"annotations": {"a": "b"}},
        ):  # the finalizers go, and nothing else
            refused(cast.ada.merge(plural, where, name, {"metadata": {"finalizers": None, **more}}))
        assert cast.ada.merge(plural, where, name, {"metadata": {"finalizers": None}}).allowed
        assert cast.admin.get(plural, where, name).code == 404
    finally:
        cast.admin.merge(plural, where, name, {"metadata": {"finalizers": None}})
