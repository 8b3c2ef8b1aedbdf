"""What makes an intercept personal: a header that not everybody's requests carry.

The command line, the agents and the local store ask here; the admission policy says the same in CEL, and a test
compares the two. Pure. It must never take a rule for personal because its value looks rare: only names count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tpnet.model import HeaderRule

EVERYBODYS: Final = frozenset(
    {
        # Clients send these with nearly every request (RFC 9110, RFC 6265, Fetch, Client Hints).
        *(
            "host",
            "user-agent",
            "accept",
            "accept-charset",
            "accept-encoding",
            "accept-language",
            "connection",
        ),
        *(
            "keep-alive",
            "proxy-connection",
            "content-length",
            "content-type",
            "content-encoding",
            "te",
            "trailer",
        ),
        *("transfer-encoding", "upgrade", "upgrade-insecure-requests", "expect", "cache-control", "pragma"),
        *("origin", "referer", "date", "dnt", "priority", "save-data", "http2-settings", "x-requested-with"),
        # Proxies, gateways, meshes and tracers add these to everybody's.
        *(
            "via",
            "forwarded",
            "x-real-ip",
            "x-client-ip",
            "true-client-ip",
            "client-ip",
            "x-cluster-client-ip",
        ),
        *("x-request-id", "x-request-start", "x-correlation-id", "x-scheme", "x-proto", "front-end-https"),
        *("traceparent", "tracestate", "b3", "uber-trace-id", "x-amzn-trace-id", "x-cloud-trace-context"),
        *("x-ot-span-context", "grpc-timeout", "grpc-accept-encoding", "grpc-encoding", "cdn-loop"),
        *("l5d-client-id", "l5d-dst-canonical"),
    }
)
"""Names of headers, in lower case, that nearly every request has, or that a proxy adds to every request."""

EVERYBODYS_PREFIXES: Final = (
    "sec-",
    "x-forwarded-",
    "x-original-",
    "x-envoy-",
    "x-b3-",
    "x-datadog-",
    "cf-",
    "fastly-",
)
"""How the names of other such headers begin."""


def is_personal(headers: Iterable[HeaderRule]) -> bool:
    """Whether these header rules single somebody's requests out.

    At least one of them must be exact, and its header none that everybody's requests carry: ``Host=~.+`` takes
    everything, whatever it is called.
    """
    return any(not rule.regex and not is_everybodys(rule.name) for rule in headers)


def is_everybodys(name: str) -> bool:
    """Whether (nearly) every request has a header of that name, or may be given one by a proxy."""
    lower = name.lower()
    return lower in EVERYBODYS or lower.startswith(EVERYBODYS_PREFIXES)


def cel() -> str:
    """The same of an Intercept ``object`` in CEL, for admission policies."""
    names = ", ".join(f"'{name}'" for name in sorted(EVERYBODYS))
    prefixes = ", ".join(f"'{prefix}'" for prefix in EVERYBODYS_PREFIXES)
    return (
        "object.spec.headers.exists(h, !h.?regex.orValue(false) && "
        f"!(h.name.lowerAscii() in [{names}]) && "
        f"![{prefixes}].exists(p, h.name.lowerAscii().startsWith(p)))"
    )
