import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.model import (
    HeaderRule,
    InterceptReport,
    InterceptSpec,
    InvalidInput,
    NodeAgentSpec,
    OnFailure,
    PathKind,
    PathRule,
    SessionSpec,
    TargetKind,
    TargetRef,
    clean,
)

SPEC = InterceptSpec(
    user="bob",
    session="bob-1",
    target=TargetRef(TargetKind.SERVICE, "orders"),
    headers=(HeaderRule("Coder", "Bob"), HeaderRule("X", "a.+", regex=True)),
    tunnel_port=20000,
    port="http",
    path=PathRule(PathKind.PREFIX, "/api"),
    on_failure=OnFailure.ERROR,
    connect_timeout_seconds=30,
)
DATA = {
    "user": "bob",
    "session": "bob-1",
    "target": {"kind": "Service", "name": "orders"},
    "headers": [{"name": "Coder", "value": "Bob"}, {"name": "X", "value": "a.+", "regex": True}],
    "tunnelPort": 20000,
    "port": "http",
    "path": {"kind": "prefix", "value": "/api"},
    "connectTimeoutSeconds": 30,
    "onFailure": "error",
}


def test_an_intercept_reads_as_the_api_has_it():
    assert to_api(SPEC) == DATA
    assert from_api(InterceptSpec, DATA) == SPEC


def test_what_is_required_is_written_even_if_empty_and_what_has_its_default_is_not():
    everything = InterceptSpec("bob", TargetRef(TargetKind.POD, "p"), (), session="bob-1", tunnel_port=20000)
    assert to_api(everything) == {
        "user": "bob",
        "session": "bob-1",
        "target": {"kind": "Pod", "name": "p"},
        "headers": [],
        "tunnelPort": 20000,
    }


def test_a_port_is_a_number_or_a_name():
    assert from_api(InterceptSpec, DATA | {"port": 80}).port == 80
    assert from_api(InterceptSpec, {k: v for k, v in DATA.items() if k != "port"}).port is None
    with pytest.raises(InvalidInput, match=r"InterceptSpec\.port is true or false\."):
        from_api(InterceptSpec, DATA | {"port": True})


def test_fields_of_a_newer_version_are_passed_over():
    assert from_api(InterceptSpec, DATA | {"weight": 3}) == SPEC


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (InterceptSpec, None, "InterceptSpec is None, not an object."),
        (InterceptSpec, {"user": "bob"}, "InterceptSpec has no target."),
        (InterceptSpec, DATA | {"user": 3}, "InterceptSpec.user is a number, not a text."),
        (InterceptSpec, DATA | {"headers": {}}, "InterceptSpec.headers is an object, not a list."),
        (InterceptSpec, DATA | {"headers": [{"name": "a"}]}, "InterceptSpec.headers[0] has no value."),
        (
            InterceptSpec,
            DATA | {"onFailure": "retry"},
            "InterceptSpec.onFailure is 'retry', which is none of app, error.",
        ),
    ],
)
def test_what_cannot_be_read_is_named(cls, data, message):
    with pytest.raises(InvalidInput) as caught:
        from_api(cls, data)
    assert caught.value.message == message


@pytest.mark.parametrize("cls", [InterceptSpec, InterceptReport, SessionSpec, NodeAgentSpec])
@settings(deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_as_the_same(cls, data):
    obj = data.draw(st.from_type(cls))
    read = from_api(cls, to_api(obj))
    assert from_api(cls, to_api(read)) == read
    if clean(repr(obj)) == repr(obj) and "\\" not in repr(
        obj
    ):  # repr writes what is not clean with a backslash
        assert read == obj
