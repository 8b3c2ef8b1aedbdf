import re
from importlib import resources

import pytest
import yaml

from tpnet import __version__
from tpnet.control.kubernetes import names
from tpnet.control.kubernetes.install import FILES, KINDS, manifests
from tpnet.control.kubernetes.resources import SYSTEM_NAMESPACE
from tpnet.model import InvalidInput
from tpnet.rules import personal
from tpnet.tunnel import AGENT_UDP_PORT

FOLDER = resources.files("tpnet.control.kubernetes") / "manifests"
OBJECTS = manifests()


def text_of(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def named(kind, name):
    return next(obj for obj in OBJECTS if obj["kind"] == kind and obj["metadata"]["name"] == name)


def policies():
    return [obj for obj in OBJECTS if obj["kind"] == "ValidatingAdmissionPolicy"]


def test_kustomize_names_the_same_files():
    assert tuple(yaml.safe_load(text_of("kustomization.yaml"))["resources"]) == FILES


def test_everything_says_that_it_is_ours_and_can_be_found_again():
    known = {resource.kind: resource for resource in KINDS}
    for obj in OBJECTS:
        assert obj["metadata"]["labels"][names.PART_OF] == "tpnet", obj["metadata"]
        assert known[obj["kind"]].api_version == obj["apiVersion"]
        assert known[obj["kind"]].namespaced == ("namespace" in obj["metadata"])
        assert obj["metadata"].get("namespace", SYSTEM_NAMESPACE) == SYSTEM_NAMESPACE
        assert obj["metadata"]["labels"].get(names.VERSION_LABEL, __version__) == __version__


def test_another_image_changes_the_image_and_nothing_else():
    (daemon_set,) = (obj for obj in manifests("registry.example/agent:2") if obj["kind"] == "DaemonSet")
    container = daemon_set["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/agent:2"
    container["image"] = f"localhost/tpnet-agent:{__version__}"
    assert daemon_set == named("DaemonSet", names.AGENT_ACCOUNT)
    assert daemon_set["spec"]["template"]["spec"]["containers"][0]["args"] == ["agent", "run"]
    (other,) = (obj for obj in manifests(bytes_untouched=True) if obj["kind"] == "DaemonSet")
    assert other["spec"]["template"]["spec"]["containers"][0]["args"] == ["agent", "run", "--bytes-untouched"]
    (third,) = (obj for obj in manifests(worker_uids=range(7000, 7100)) if obj["kind"] == "DaemonSet")
    words = third["spec"]["template"]["spec"]["containers"][0]["args"]
    assert words == ["agent", "run", "--worker-uids=7000-7099"]
    with pytest.raises(InvalidInput):
        manifests("two words")


def test_policies_fail_closed_and_refuse_with_a_sentence():
    bound = {
        obj["spec"]["policyName"]: obj["spec"]["validationActions"]
        for obj in OBJECTS
        if obj["kind"] == "ValidatingAdmissionPolicyBinding"
    }
    for policy in policies():
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert "Deny" in bound[policy["metadata"]["name"]]
        for validation in policy["spec"]["validations"]:
            assert validation["reason"] == "Forbidden"
            assert validation["messageExpression"].rstrip("')\"").endswith("."), validation


def test_policies_know_the_agent_by_the_names_used_elsewhere():
    for policy in policies():
        (agent,) = (each for each in policy["spec"]["variables"] if each["name"] == "agent")
        assert f"'{names.AGENT_USER}'" in agent["expression"]
        assert f"'{names.NODE_NAME_KEY}'" in agent["expression"]
    text = text_of("policy.yaml")
    assert f"check('{names.VERB_GLOBAL}')" in text
    assert f"check('{names.VERB_DELETE_ANY}')" in text
    assert f"'{names.LIMIT_LABEL}'" in text


def test_policy_and_agents_agree_on_what_is_personal():
    (policy,) = (one for one in policies() if one["metadata"]["name"] == "tpnet-intercepts")
    (variable,) = (one for one in policy["spec"]["variables"] if one["name"] == "personal")
    assert variable["expression"] == personal.cel()


def test_each_verb_and_each_capability_has_its_reason():
    verbs = re.findall(r"^  - [a-z-]+.*$", text_of("rbac.yaml"), re.MULTILINE)
    assert len(verbs) > 40
    assert [line for line in verbs if "  # " not in line and " # " not in line] == []
    assert "verbs: [" not in text_of("rbac.yaml")
    capabilities = re.findall(r"^            - [A-Z_]+.*$", text_of("daemonset.yaml"), re.MULTILINE)
    assert len(capabilities) == 8
    assert [line for line in capabilities if "# " not in line] == []


def test_roles_are_those_that_are_spoken_of():
    roles = {obj["metadata"]["name"] for obj in OBJECTS if obj["kind"] == "ClusterRole"}
    wanted = {
        names.ROLE_DEVELOPER,
        names.ROLE_GLOBAL,
        names.ROLE_ADMIN,
        names.ROLE_SESSION,
        names.AGENT_ACCOUNT,
    }
    assert roles == wanted
    assert named("Role", names.ROLE_SESSION)["metadata"]["namespace"] == SYSTEM_NAMESPACE
    assert named("RoleBinding", names.ROLE_SESSION)["subjects"][0]["name"] == names.DEVELOPERS


def rights(kind, name):
    return {
        (group, resource, verb)
        for rule in named(kind, name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_an_agent_may_read_no_secret_and_change_no_pod():
    given = rights("ClusterRole", "tpnet-agent") | rights("Role", "tpnet-agent")
    assert not [right for right in given if "*" in right]
    assert not [
        right for right in given if right[1] in {"secrets", "configmaps", "pods/exec", "pods/portforward"}
    ]
    outside = {verb for group, _, verb in given if group != "tpnet.dev"}
    assert outside == {"get", "list", "watch"}


def test_a_developer_sees_no_session():
    given = rights("ClusterRole", "tpnet-developer") | rights("Role", "tpnet-session")
    assert {verb for _, resource, verb in given if resource == "sessions"} == {"create", "patch", "delete"}
    assert not [right for right in given if right[2] in {names.VERB_GLOBAL, names.VERB_DELETE_ANY}]


def test_the_agents_pod_has_no_more_than_it_needs():
    template = named("DaemonSet", names.AGENT_ACCOUNT)["spec"]["template"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    security = container["securityContext"]
    assert "hostNetwork" not in pod
    assert security["privileged"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"]["drop"] == ["ALL"]
    assert [volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume] == [
        "/dev/net/tun",
        "/var/cache/tpnet",
    ]
    assert container["ports"][0]["hostPort"] == AGENT_UDP_PORT


def test_a_sessions_name_is_readable_a_dns_label_and_new_each_time():
    for user in ("bob", "Bob.Smith@example.com", "system:serviceaccount:a:b", "日本", "x" * 300):
        one, other = names.session_name(user), names.session_name(user)
        assert one != other
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one)
    assert names.session_name("Bob.Smith@example.com").startswith("bob-smith-example-com-")


def test_managers_names_are_no_longer_than_the_api_server_takes():
    assert len(names.node_manager("n" * 253)) <= 128


@pytest.mark.parametrize(
    ("namespace", "system"), [("kube-system", True), ("tpnet", True), ("shop", False), ("tpnet-dev", False)]
)
def test_system_namespaces(namespace, system):
    assert names.is_system(namespace) is system
