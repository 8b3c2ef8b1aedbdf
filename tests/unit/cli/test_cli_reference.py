import ast
import inspect
from pathlib import Path

import pytest
import yaml

from tpnet.agent.cluster import decide, report
from tpnet.control.kubernetes.install import manifests
from tpnet.control.kubernetes.schema import KINDS
from tpnet.model import TpnetError
from tpnet_cli import reference_cluster
from tpnet_cli.main import EXIT_INTERRUPTED, EXIT_USAGE
from tpnet_cli.reference import pages

DOCS = Path(__file__).parents[3] / "docs" / "reference"
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_current(name):
    assert (DOCS / name).read_text() == PAGES[name], "run make docs"


def test_every_exit_code_is_explained():
    text = (DOCS / "exit-codes.md").read_text()
    codes = {error.exit_code for error in (TpnetError, *TpnetError.__subclasses__())}
    for code in {0, EXIT_USAGE, EXIT_INTERRUPTED, *codes}:
        assert f"| {code} |" in text


def rows(text):
    """The cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.replace(r"\|", "¦")[1:-1].split(" |")] for line in lines]


def fields_of(kind):
    """The rows of a kind's fields, by the field."""
    section = PAGES["objects.md"].partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    return {cells[0]: cells for cells in rows(section.partition("### Fields")[2].partition("\n### ")[0])}


def test_every_field_has_a_row_and_its_sentence():
    def look(told, path, schema):
        assert schema.get("description", "") in told[f"`{path}`"][3].replace("\\", ""), path
        inner, below = (schema["items"], f"{path}[]") if "items" in schema else (schema, path)
        for name, field in inner.get("properties", {}).items():
            look(told, f"{below}.{name}", field)

    for kind in KINDS:
        (version,) = kind.definition()["spec"]["versions"]
        parts = version["schema"]["openAPIV3Schema"]["properties"]
        for part in parts.keys() & {"spec", "status"}:
            look(fields_of(kind.resource.kind), part, parts[part])
    assert fields_of("Intercept")["`spec.user`"][1:3] == ["text, 1 to 512 characters", "required"]
    assert fields_of("Intercept")["`spec.headers`"][1:3] == ["list of objects, 32 at most", "required"]
    assert fields_of("Session")["`spec.leaseSeconds`"][1:3] == ["number, 5 to 120", "default `30`"]


def test_every_verb_has_a_row_with_its_reason():
    text = PAGES["rbac.md"]
    verbs = [cells for cells in rows(text) if len(cells) == 3 and cells[1].startswith("`")]
    roles = [obj for obj in manifests() if obj["kind"] in {"ClusterRole", "Role"}]
    assert len(verbs) == sum(len(rule["verbs"]) for role in roles for rule in role["rules"])
    assert all(why for _, _, why in verbs)
    for role in roles:
        assert f"## {role['kind']} `{role['metadata']['name']}`" in text
    for said in ("Bound to: Group `tpnet:developers`.", "Bound to: ServiceAccount `tpnet/tpnet-agent`."):
        assert text.count(said) == 2


def test_every_message_of_a_policy_is_told_in_words():
    text = PAGES["rbac.md"]
    policies = [obj for obj in manifests() if obj["kind"] == "ValidatingAdmissionPolicy"]
    messages = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(messages) == sum(len(policy["spec"]["validations"]) for policy in policies)
    assert not [line for line in messages if "variables" in line or "' +" in line or line[-1] not in ".]"]
    assert (
        "- spec.user is OWNER, and you are YOU. An intercept belongs to whoever makes it: write your own name."
        in messages
    )
    assert r"The intercept NAMESPACE/NAME is OWNER's, and only OWNER can change it." in text
    assert r"alone, and YOU [is none. \| runs on node NODE.]" in text


def reasons_in(module, function, place):
    """The words that a module gives a function as its argument at a place, where it gives a word."""
    found = set()
    for call in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == function:
            for node in ast.walk(call.args[place]):
                if isinstance(node, ast.Name):
                    found.add(getattr(module, node.id, node.id))
                if isinstance(node, ast.Constant):
                    found.add(node.value)
    return found


def test_every_reason_that_agents_give_is_explained():
    given = reasons_in(report, "_condition", 2) - {"accepted", "case", "reason", "silent", "missing"}
    told = {word for _, _, reason, _ in reference_cluster.REASONS for word in reason.split(", ")}
    assert given | {decide.NO_SESSION, decide.REFUSED, decide.SESSION_GONE} == told
    assert reasons_in(decide, "Problem", 0) == {word for word, _ in reference_cluster.NODE_REASONS}


def test_yaml_in_the_pages_on_clusters_is_what_the_definitions_take():
    """An Intercept that a reader copies has the fields that there are."""
    schema = KINDS[0].definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = []
    for path in sorted((DOCS.parent).rglob("*.md")):
        for block in path.read_text().split("```")[1::2]:
            text = block.partition("\n")[2]
            if text.startswith("apiVersion: tpnet.dev/"):
                found += [obj for obj in yaml.safe_load_all(text) if obj["kind"] == "Intercept"]
    assert found
    for obj in found:
        assert obj["apiVersion"] == "tpnet.dev/v1alpha1"
        assert set(obj["spec"]) <= set(schema["properties"])
        assert set(schema["required"]) <= set(obj["spec"])
