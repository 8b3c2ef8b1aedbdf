"""Names that others write into objects become one segment of a path, one value of a selector, or nothing."""

import asyncio
import contextlib
import random
from urllib.parse import unquote

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.cluster.facts import wish_of
from tpnet.control.kubernetes.api import Api, Resource, field_is, label_is
from tpnet.control.kubernetes.library import library
from tpnet.control.kubernetes.resources import INTERCEPTS, NODES, PODS, SESSIONS
from tpnet.model import InvalidInput, NotThere

NASTY = [
    "",
    ".",
    "..",
    "a/b",
    "../x",
    "a/../b",
    "%2e%2e",
    "%2F",
    "a%",
    "a?b=c",
    "a#b",
    "a;b",
    "a b",
    "a\nb",
    "\0",
    "é",
    "\ud800",
]
names = st.one_of(
    st.text(max_size=20), st.text(alphabet="./%?#&=;:@+ \\ab\0\n", max_size=12), st.sampled_from(NASTY)
)
kinds = st.sampled_from([INTERCEPTS, SESSIONS, PODS, NODES])


def segments(resource: Resource, namespace: str, name: str) -> list[str]:
    group = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
    return ["", *group, *(["namespaces", namespace] if resource.namespaced else []), resource.plural, name]


@given(kinds, names, names)
def test_a_path_has_exactly_its_segments_or_names_nothing(resource, namespace, name):
    try:
        path = resource.path(namespace, name)
    except NotThere:
        return
    assert not set(path) & set("?#\\ \0\n")
    assert [unquote(part) for part in path.split("/")] == segments(resource, namespace, name)
    assert not {"", ".", ".."} & set(path.split("/")[1:])


@pytest.mark.parametrize("name", ["orders", "a-b.c", "system:node:n1", "bob@x", "a+b", "ü"])
def test_what_can_be_a_name_is_asked_for(name):
    assert unquote(INTERCEPTS.path("shop", name)).endswith(f"/namespaces/shop/intercepts/{name}")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "%2e%2e", "a%b"])
def test_what_cannot_be_a_name_names_nothing(name):
    with pytest.raises(NotThere):
        PODS.path("shop", name)
    with pytest.raises(NotThere):
        PODS.path(name, "orders")


def test_a_name_reaches_the_server_as_it_is():
    """Through the library and its URLs, which decode and normalise paths."""
    seen = []

    async def handle(request):
        seen.append(request.raw_path)
        return web.json_response({"metadata": {}})

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        while True:
            port = random.randrange(20000, 30000)
            with contextlib.suppress(OSError):
                await web.TCPSite(runner, "127.0.0.1", port).start()
                break
        configuration = library().client.Configuration()
        configuration.host = f"http://127.0.0.1:{port}"
        try:
            async with Api(configuration, "shop") as api:
                for name in asked:
                    await api.get(INTERCEPTS, name, "shop")
                    await api.delete(INTERCEPTS, name, "shop")
                for name in NASTY:
                    with contextlib.suppress(NotThere):
                        await api.delete(INTERCEPTS, name, "shop")
        finally:
            await runner.cleanup()

    asked = [
        "orders",
        "a?b=c",
        "a#b",
        "a;b",
        "a b",
        "a+b",
        "x&watch=1",
        "é",
        "a:b@c",
        "a\\..\\b",
        "..a",
        "a..",
    ]
    asyncio.run(main())
    assert [unquote(path) for path in seen[: 2 * len(asked)]] == [
        f"/apis/tpnet.dev/v1alpha1/namespaces/shop/intercepts/{name}" for name in asked for _ in range(2)
    ]
    for path in seen:  # a deletion of no name would be one of all objects
        assert path.count("/") == 7, path
        assert path.split("/")[-1], path


@given(st.one_of(names, st.from_regex(r"[A-Za-z0-9._-]{0,70}", fullmatch=True)))
def test_a_label_selector_selects_by_that_one_value(value):
    try:
        selector = label_is("tpnet.dev/session", value)
    except NotThere:
        return
    assert selector == f"tpnet.dev/session={value}"
    assert len(value) <= 63
    assert all(one.isascii() and (one.isalnum() or one in "._-") for one in value)


def unescaped(selector: str) -> list[tuple[str, str]]:
    """As k8s.io/apimachinery/pkg/fields reads it: terms, and what is escaped."""
    terms, field, value, seen = [], "", "", False
    at = iter(selector)
    for one in at:
        if one == "\\":
            one = next(at)
        elif one == ",":
            terms.append((field, value))
            field, value, seen = "", "", False
            continue
        elif one == "=" and not seen:
            seen = True
            continue
        if seen:
            value += one
        else:
            field += one
    return [*terms, (field, value)]


@given(names)
def test_a_field_selector_selects_by_that_one_value(value):
    assert unescaped(field_is("metadata.name", value)) == [("metadata.name", value)]


@given(names, names)
def test_an_agent_asks_for_nothing_that_an_intercept_cannot_name(target, session):
    item = {
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {
            "user": "eve",
            "target": {"kind": "Service", "name": target or "x"},
            "headers": [],
            "session": session,
        },
    }
    try:
        wish = wish_of(item)
    except InvalidInput:
        return
    for name in (wish.spec.target.name, wish.spec.session):
        assert not name or (
            name.isascii()
            and name[0].isalnum()
            and not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        )
