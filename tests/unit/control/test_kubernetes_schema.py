from importlib import resources

import pytest
import re2
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tpnet.control.kubernetes.checks import CHECKS
from tpnet.control.kubernetes.schema import KINDS, crds_yaml
from tpnet.model.kinds import MAX_HEADER_RULES
from tpnet.rules import parse
from tpnet.text import ONE_LINE, clean

FILE = resources.files("tpnet.control.kubernetes") / "manifests/crds.yaml"
VERSIONS = {kind.resource.kind: kind.definition()["spec"]["versions"][0] for kind in KINDS}


def described(schema, where):
    """Every schema below, with its path."""
    yield where, schema
    for name, below in schema.get("properties", {}).items():
        yield from described(below, f"{where}.{name}")
    if "items" in schema:
        yield from described(schema["items"], f"{where}[]")


FIELDS = [
    (where, schema)
    for kind, version in VERSIONS.items()
    for where, schema in described(version["schema"]["openAPIV3Schema"], kind)
]


def test_the_file_is_what_the_classes_say():
    assert FILE.read_text(encoding="utf-8") == crds_yaml(), (
        "write it anew: python -m tpnet.control.kubernetes.schema > tpnet/control/kubernetes/manifests/crds.yaml"
    )


@pytest.mark.parametrize(("where", "schema"), FIELDS, ids=[where for where, _ in FIELDS])
def test_each_field_has_a_sentence_and_each_text_and_list_an_end(where, schema):
    if not where.endswith(("[]", ".metadata")):
        text = schema["description"]
        assert text[0].isupper() or where.endswith((".kind", ".apiVersion", ".onFailure")), text
        assert text.endswith((".", "…")), text
    if schema.get("type") == "array":
        assert "maxItems" in schema
        assert schema["x-kubernetes-list-type"] in {"atomic", "map"}
    if _is_text(schema) and where not in GIVEN and "enum" not in schema:
        assert {"maxLength"} <= schema.keys()
        assert schema.keys() & {"pattern", "format"}


def _is_text(schema):
    return schema.get("type") == "string" or "x-kubernetes-int-or-string" in schema


GIVEN = {f"{kind}.{field}" for kind in VERSIONS for field in ("kind", "apiVersion")}
PATTERNS = [(where, schema["pattern"]) for where, schema in FIELDS if "pattern" in schema]
HOSTILE = [
    *("\x1b[2J", "\x1b]52;c;ZXZpbA==\x07", "\x9b31m", "a\rb", "a\x08b", "\x00", "\x7f"),
    *("a\n", "\na", "\u202egnirts", "\u2066x", "\u200f", "x\u2028y", "\u061c"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_field_takes_what_a_terminal_obeys(text):
    took = [where for where, pattern in PATTERNS if re2.search(pattern, text)]
    # What rules compare with may be any text of a request; it is shown escaped.
    assert set(took) <= {f"Intercept.spec.{rule}.value" for rule in ("headers[]", "path")}
    if min(text) < " " or "\x7f" <= min(text) <= "\x9f":
        assert not took


@given(st.text())
def test_what_is_written_clean_is_taken(text):
    assert re2.search(ONE_LINE, clean(text))
    assert bool(re2.search(ONE_LINE, text)) is (clean(text) == text)


@pytest.mark.parametrize(
    "check", [check for checks in CHECKS.values() for check in checks], ids=lambda c: c.rule
)
def test_each_check_ends_in_a_sentence(check):
    assert check.message[0].isupper()
    assert check.message.endswith((".", "|~"))


def test_an_intercept_says_outright_that_it_takes_everything():
    spec = VERSIONS["Intercept"]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "headers" in spec["required"]
    assert "default" not in spec["properties"]["headers"]
    assert spec["properties"]["onFailure"]["default"] == "app"


def test_both_checks_of_rules_have_the_same_limits():
    assert MAX_HEADER_RULES == parse.MAX_HEADER_RULES
    header = VERSIONS["Intercept"]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["headers"]
    assert header["items"]["properties"]["value"]["maxLength"] == parse.MAX_TEXT_BYTES


def test_kubectl_get_says_whose_which_requests_and_whether_it_is_on():
    columns = {c["name"]: c for c in VERSIONS["Intercept"]["additionalPrinterColumns"] if "priority" not in c}
    assert list(columns) == ["Target", "User", "Requests", "Ready", "Redirected", "Reason", "Age"]


def test_kinds_can_be_named_briefly():
    names = [document["spec"]["names"] for document in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))]
    assert [name["shortNames"] for name in names] == [["tpi"], ["tps"], ["tpn"]]
    assert all(name["categories"] == ["tpnet"] for name in names)
