"""The API over a real connection: what stands in the requests."""

import asyncio
import contextlib
import random
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from aiohttp import web

from tpnet.control.kubernetes import api as api_module
from tpnet.control.kubernetes.api import Api
from tpnet.control.kubernetes.library import library
from tpnet.control.kubernetes.resources import INTERCEPTS, NODES
from tpnet.model import NotThere


@contextlib.asynccontextmanager
async def server(answer):
    """``answer(request)`` gives status and body of every request; its URL."""

    async def handle(request):
        status, body = answer(request)
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        while True:
            port = random.randrange(20000, 30000)
            with contextlib.suppress(OSError):
                await web.TCPSite(runner, "127.0.0.1", port).start()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def account(monkeypatch, tmp_path):
    """A pod's service account: its folder, and the clock that its token ages by."""
    (tmp_path / "namespace").write_text("tpnet")
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("The server here has none: see below.")
    module = library().config.incluster_config
    monkeypatch.setattr(api_module, "_ACCOUNT", tmp_path)
    monkeypatch.setattr(module, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(module, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    clock = SimpleNamespace(offset=timedelta())
    later = SimpleNamespace(now=lambda: datetime.now() + clock.offset)  # noqa: DTZ005 - as the library has it
    monkeypatch.setattr(module, "datetime", SimpleNamespace(datetime=later, timedelta=timedelta))
    client = library().client.ApiClient
    begin = client.__init__

    def begin_without_certificates(self, configuration):
        configuration.ssl_ca_cert = None
        begin(self, configuration)

    monkeypatch.setattr(client, "__init__", begin_without_certificates)
    return SimpleNamespace(folder=tmp_path, clock=clock)


def test_a_token_that_was_rotated_is_used_a_minute_later(account):
    seen = []

    def answer(request):
        seen.append(request.headers["Authorization"])
        return 200, {"metadata": {"name": "n1"}}

    async def main():
        async with server(answer) as url, await Api.in_cluster() as api:
            assert (api.server, api.namespace) == ("https://127.0.0.1:6443", "tpnet")
            api.server = url
            await api.get(NODES, "n1")
            (account.folder / "token").write_text("second")
            await api.get(NODES, "n1")
            account.clock.offset = timedelta(seconds=61)
            await api.get(NODES, "n1")

    asyncio.run(main())
    assert seen == ["bearer first", "bearer first", "bearer second"]


def test_no_pod_is_told_what_to_do(account):
    (account.folder / "token").unlink()
    with pytest.raises(NotThere, match="This is no pod with a service account") as caught:
        asyncio.run(Api.in_cluster())
    assert "tpnet agent run --local" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "body", "serves"),
    [
        (200, {"resources": [{"name": "intercepts"}]}, True),
        (200, {"resources": [{"name": "other"}]}, False),
        (404, {"message": "the server could not find the requested resource"}, False),
    ],
)
def test_whether_a_kind_is_served_is_asked_of_its_group(account, code, body, serves):
    paths = []

    def answer(request):
        paths.append(request.path)
        return code, body

    async def main():
        async with server(answer) as url, await Api.in_cluster() as api:
            api.server = url
            return await api.serves(INTERCEPTS)

    assert asyncio.run(main()) is serves
    assert paths == ["/apis/tpnet.dev/v1alpha1"]
