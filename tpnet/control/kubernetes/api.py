"""The Kubernetes API, as plain objects: get, list, apply, delete, review. asyncio.

Agents, the session daemon and the command line call it. It must never log a token or a body, and never retry
what was not safe to repeat: every write is an apply, a create of one name, or a delete.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from tpnet.control.kubernetes.library import library
from tpnet.model import Conflict, InvalidInput, NotThere, Refused, TpnetError, clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

Object = dict[str, Any]
"""A Kubernetes object as JSON data."""

REQUEST_SECONDS = 30.0
"""Seconds for one request, unless told otherwise."""
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_APPLY = "application/apply-patch+yaml"
_NO_SEGMENT = re.compile(r"[/%\ud800-\udfff]")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object: where it is found. ``group`` is empty for the core's."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What stands in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def long_name(self) -> str:
        """``plural.group``, as RBAC and kubectl say it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def collection(self, namespace: str = "") -> str:
        """The path of all objects below the server's address; without ``namespace``: of all namespaces.

        Raises ``NotThere`` for what no namespace can be called.
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", self._segment(namespace)]
        return "/" + "/".join([*parts, self.plural])

    def path(self, namespace: str, name: str, subresource: str = "") -> str:
        """The path of one object. Raises ``NotThere`` for what no object and no namespace can be called."""
        if self.namespaced:
            self._segment(namespace)  # without it, this would be the path of something else
        parts = [self.collection(namespace), self._segment(name), *([subresource] if subresource else [])]
        return "/".join(parts)

    def _segment(self, name: str) -> str:
        """A name as exactly one segment of a path.

        Others write names into objects. What would become other segments, or none, names nothing
        (k8s.io/apimachinery/pkg/api/validation/path: IsValidPathSegmentName).
        """
        if name in {"", ".", ".."} or _NO_SEGMENT.search(name):
            raise NotThere(f"There is no {self.kind} {name[:64]!r}: nothing can be called that.")
        return quote(name, safe="")


def label_is(label: str, value: str) -> str:
    """The selector of objects whose ``label`` has that value. Raises ``NotThere`` for what no label can have."""
    if not _LABEL_VALUE.fullmatch(value):
        raise NotThere(f"Nothing has the label {label}={value[:64]!r}: no label can have that value.")
    return f"{label}={value}"


def field_is(field: str, value: str) -> str:
    """The selector of objects whose ``field`` has that value, whatever it is (fields.EscapeValue)."""
    return field + "=" + re.sub(r"[\\,=]", r"\\\g<0>", value)


class Gone(TpnetError):
    """The resource version is too old (410): list again."""


class Unreachable(NotThere):
    """It is the API server that is not there, which says nothing about the object."""


class Api:
    """One API server, as one user. Make it with ``from_kubeconfig`` or ``in_cluster``, and ``close`` it."""

    def __init__(
        self, configuration: Any, namespace: str, *, user: str = "", groups: Sequence[str] = ()
    ) -> None:
        self.namespace = namespace
        self.server: str = configuration.host
        self.seconds = REQUEST_SECONDS
        configuration.connection_pool_maxsize = 0  # no limit: each watch keeps a connection
        self._client: Any = library().client.ApiClient(configuration)
        self._headers = [("Impersonate-User", user)] if user else []
        self._headers += [("Impersonate-Group", group) for group in groups]

    @classmethod
    async def from_kubeconfig(
        cls,
        path: str | None = None,
        context: str | None = None,
        *,
        user: str = "",
        groups: Sequence[str] = (),
    ) -> Self:
        """As kubectl would: ``path`` or KUBECONFIG or ~/.kube/config, its ``context`` or the current one.

        ``user`` and ``groups``: whom to impersonate. Raises ``NotThere`` without such a file or context,
        ``InvalidInput`` for a malformed one.
        """
        config, kube_config = library().config, library().kube_config
        where = path or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
        configuration = library().client.Configuration()
        if not _is_there(where):
            raise NotThere(
                f"There is no kubeconfig at {where}.",
                "Give one with --kubeconfig or KUBECONFIG, or ask an admin of the cluster.",
            )
        try:
            merged = kube_config.KubeConfigMerger(where)
            await config.load_kube_config(where, context=context, client_configuration=configuration)
            namespace = _namespace_of(merged.config, context)
        except Exception as error:  # the library says as many things as there are files
            raise InvalidInput(
                f"The kubeconfig {where} cannot be used: {_first_line(error)}.",
                "kubectl config view shows it.",
            ) from error
        return cls(configuration, namespace, user=user, groups=groups)

    @classmethod
    async def in_cluster(cls) -> Self:
        """As the pod's own service account; its token is read anew as it is rotated. Raises ``NotThere``."""
        config = library().config
        configuration = library().client.Configuration()
        try:
            config.load_incluster_config(configuration)
            namespace = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError) as error:
            raise NotThere(
                f"This is no pod with a service account: {_first_line(error)}.",
                "Run it where tpnet install puts it, or without a cluster: tpnet agent run --local",
            ) from error
        return cls(configuration, namespace)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Reading.

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """One object. Raises ``NotThere``, ``Refused``, ``TpnetError``."""
        return await self._ask("GET", resource.path(namespace, name))

    async def serves(self, resource: Resource) -> bool:
        """Whether there is such a kind here, as anybody may ask who has no right to its objects."""
        try:
            answer = await self._ask("GET", f"/apis/{resource.api_version}")
        except Unreachable:
            raise
        except NotThere:
            return False
        return any(one["name"] == resource.plural for one in answer.get("resources") or ())

    async def list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "", limit: int = 0
    ) -> tuple[list[Object], str]:
        """All objects that the selectors choose, and the resource version to watch from."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit) if limit else ""}
        items: list[Object] = []
        while True:
            page = await self._ask("GET", resource.collection(namespace), query)
            items += page.get("items") or []
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    async def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        seconds: int = 300,
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Events after ``version``: ADDED, MODIFIED, DELETED or BOOKMARK, and the object. Ends after ``seconds``.

        ``opened()`` is called when the API server has agreed, which may be long before the first event.

        Raises ``Gone`` when the version is too old, and as ``get`` does.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "labelSelector": labels,
            "fieldSelector": fields,
            "timeoutSeconds": str(seconds),
        }
        answer = await self._send("GET", resource.collection(namespace), query, seconds=seconds + 30.0)
        response = answer.response
        opened()
        try:
            while True:
                try:
                    line = await response.content.readline()
                except _broken() as error:
                    raise _unreachable(self.server, error) from error
                if not line:
                    return
                yield event_of(line, self.server)
        finally:
            response.close()

    # Writing.

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        manager: str,
        *,
        subresource: str = "",
        force: bool = True,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply: ``manager`` owns exactly the fields of ``obj`` from now on. Returns the object."""
        meta = obj["metadata"]
        query = {
            "fieldManager": manager,
            "force": "true" if force else "",
            "dryRun": "All" if dry_run else "",
            "fieldValidation": "Strict",
        }
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        path = resource.path(meta.get("namespace", ""), meta["name"], subresource)
        return await self._ask("PATCH", path, query, body, _APPLY)

    async def create(self, resource: Resource, obj: Object, *, manager: str = "tpnet") -> Object:
        """Create an object; ``Conflict`` when there is one of its name."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        path = resource.collection(obj["metadata"].get("namespace", ""))
        return await self._ask("POST", path, {"fieldManager": manager}, body)

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Object) -> Object:
        """A JSON merge patch (RFC 7396)."""
        path = resource.path(namespace, name)
        return await self._ask(
            "PATCH", path, {"fieldManager": "tpnet"}, patch, "application/merge-patch+json"
        )

    async def delete(self, resource: Resource, name: str, namespace: str = "", *, uid: str = "") -> bool:
        """Delete an object, only that of this ``uid`` if given; whether it was there."""
        body = {"preconditions": {"uid": uid}} if uid else None
        try:
            await self._ask("DELETE", resource.path(namespace, name), {}, body)
        except Unreachable:
            raise
        except NotThere:
            return False
        except Conflict:
            if not uid:
                raise
            return False  # another one has its name
        return True

    # Who am I, and what may I do.

    async def whoami(self) -> tuple[str, tuple[str, ...]]:
        """User name and groups, as the API server sees this client (SelfSubjectReview)."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await self._ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, body)
        info = answer["status"]["userInfo"]
        return info.get("username", ""), tuple(info.get("groups") or ())

    async def may(
        self, verb: str, resource: Resource, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> bool:
        """Whether this user has that right (SelfSubjectAccessReview)."""
        attributes = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "namespace": namespace,
            "name": name,
            "subresource": subresource,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, body)
        return bool(answer["status"]["allowed"])

    # The wire.

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer = await self._send(method, path, query or {}, body, content_type)
        try:
            data = await answer.read()
        except _broken() as error:
            raise _unreachable(self.server, error) from error
        return object_of(data, self.server)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> Any:
        """An answer that is no error."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        url = self.server + path
        if given := {name: value for name, value in query.items() if value}:
            url += "?" + urlencode(given)
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = await self._client.call_api(
                method,
                url,
                _with_repeated(headers, self._headers),
                body,
                _request_timeout=seconds or self.seconds,
            )
            if answer.status < 400:
                return answer
            data = await answer.read()
        except _broken() as error:
            raise _unreachable(self.server, error) from error
        raise error_of(answer.status, data, self.server)


def _with_repeated(headers: dict[str, str], more: Sequence[tuple[str, str]]) -> Any:
    """Headers, and others that may stand several times."""
    if not more:
        return headers
    from multidict import CIMultiDict

    return CIMultiDict([*headers.items(), *more])


def _broken() -> tuple[type[Exception], ...]:
    """The exceptions of a connection that does not come about, or breaks."""
    from aiohttp import ClientError

    return (OSError, TimeoutError, ClientError, asyncio.IncompleteReadError)


def _unreachable(server: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"The API server {server} does not answer: {_first_line(error) or type(error).__name__}.",
        "Is the cluster up, and reachable from here? kubectl version asks the same server.",
    )


def object_of(data: bytes, server: str) -> Object:
    """The object in an answer. Raises ``Unreachable`` where it has none: something before the API server speaks."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unreachable(
            f"What answers at {server} is no API server.",
            "Is there a proxy between? kubectl asks the same server.",
        )
    return found


def event_of(line: bytes, server: str) -> tuple[str, Object]:
    """Kind and object of one line of a watch. Raises what an error among them says, ``Unreachable`` for what is none."""
    event = object_of(line, server)
    kind, found = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(found, dict):
        raise Unreachable(f"The API server {server} tells of a change that is none.")
    if kind == "ERROR":
        code = found.get("code")
        raise _error(code if isinstance(code, int) else 500, found, server)
    return kind, found


def error_of(code: int, data: bytes, server: str) -> TpnetError:
    """The error that an answer with this status tells of; its text may be of any proxy's."""
    try:
        status = json.loads(data)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        status = {"message": data.decode(errors="replace")[:200]}
    return _error(code, status, server)


def _error(code: int, status: Object, server: str) -> TpnetError:
    message = clean(str(status.get("message") or status.get("reason") or f"HTTP {code}").strip().rstrip("."))
    match code:
        case 401:
            return Refused(
                f"The API server {server} does not accept these credentials: they may have expired.",
                "Log in again, as kubectl needs it too.",
            )
        case 403:
            return _forbidden(message)
        case 404:
            return NotThere(f"{message}.")
        case 409:
            return Conflict(f"{message}.")
        case 410:
            return Gone(f"{message}.")
        case 400 | 422:
            return InvalidInput(f"{message}.")
    return TpnetError(f"The API server answered {code}: {message}.")


_DENIED = re.compile(r"denied request: (.*)", re.DOTALL)
_NO_RIGHT = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)"| at the cluster scope)'
)


def _forbidden(message: str) -> Refused:
    """What a policy says as it says it; what RBAC says as a sentence that names the missing right."""
    if denied := _DENIED.search(message):
        return Refused(f"{denied[1].rstrip('.')}.")
    if right := _NO_RIGHT.search(message):
        kind = f"{right['resource']}.{right['group']}" if right["group"] else right["resource"]
        where = f" in {right['namespace']}" if right["namespace"] else " in the whole cluster"
        return Refused(
            f"{right['user']} may not {right['verb']} {kind}{where}.",
            "An admin of the cluster can grant it: tpnet grant --help",
        )
    return Refused(f"{message}.", "An admin of the cluster can grant it.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def _is_there(kubeconfig: str) -> bool:
    """Whether one of these files is there: the library would only warn."""
    return any(Path(one).expanduser().is_file() for one in kubeconfig.split(os.pathsep) if one)


def _namespace_of(config: Any, context: str | None) -> str:
    """The context's namespace, or ``default``. ``config``: the library's merged kubeconfig."""
    wanted = context or config.safe_get("current-context")
    return str(config["contexts"].get_with_name(wanted)["context"].safe_get("namespace") or "default")
