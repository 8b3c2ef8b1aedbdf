"""Objects as the API server gives them, in short."""

from tpnet.agent.cluster.decide import LeaseState, Standing, View
from tpnet.agent.cluster.facts import Lease, Pod, Service, ServicePort, Wish, endpoints_of
from tpnet.model import HeaderRule, InterceptReport, InterceptSpec, TargetKind, TargetRef

KEYS = {
    "bob": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    "dave": "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=",
}
ALL = object()


def wish(
    name="orders-bob",
    user="bob",
    created=100.0,
    namespace="shop",
    target="Service/orders",
    report=None,
    **spec,
):
    kind, _, what = target.partition("/")
    values = {
        "session": f"{user}-1",
        "headers": (HeaderRule("Coder", user),),
        "tunnel_port": 20000,
        **spec,
    }
    return Wish(
        namespace,
        name,
        f"uid-{namespace}-{name}",
        1,
        created,
        InterceptSpec(user=user, target=TargetRef(TargetKind(kind), what), **values),
        report or InterceptReport(),
    )


def lease(user="bob", **more):
    values = {
        "name": f"{user}-1",
        "uid": f"s-{user}",
        "user": user,
        "public_key": KEYS[user],
        "renew_time": "1",
        "seconds": 30,
    }
    return Lease(**(values | more))


def live(*users):
    return {f"{user}-1": Standing(LeaseState.LIVE, lease(user)) for user in users or ("bob", "dave")}


def pod(name="orders-a", namespace="shop", owner=("Deployment", "orders"), **more):
    values = {
        "uid": f"u-{name}",
        "target": f"pod/u-{name}",
        "ips": ("10.0.0.1",),
        "ports": (("http", 8080),),
        "running": True,
        "ready": True,
    }
    return Pod(namespace, name, owner=owner, **(values | more))


def slice_of(*ends, ports=(("", 8080),), namespace="shop", family="IPv4"):
    """An EndpointSlice; ``ends`` are (pod, node, ready)."""
    return {
        "metadata": {"namespace": namespace, "name": "orders-x"},
        "addressType": family,
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports],
        "endpoints": [
            {
                "addresses": ["fd00::1" if family == "IPv6" else "10.0.0.1"],
                "conditions": {"ready": ready},
                "nodeName": node,
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": f"u-{name}"},
            }
            for name, node, ready in ends
        ],
    }


def view(
    *wishes,
    node="n1",
    pods=(),
    ends=(),
    ports=None,
    slices=None,
    sessions=None,
    limit="all",
    service=ALL,
    **more,
):
    """A view with the Service ``orders`` (port 80), behind it the pods ``ends``, in ``shop``."""
    items = slices if slices is not None else [slice_of(*ends)]
    one = (
        Service((ServicePort("", 80),))
        if ports is None
        else Service(tuple(ServicePort(*port) for port in ports))
    )
    key = "shop", "orders"
    return View(
        node=node,
        wishes=wishes,
        pods={(one.namespace, one.name): one for one in pods},
        services={key: one if service is ALL else service},
        endpoints={key: tuple(end for item in items for end in endpoints_of(item))},
        limits={"shop": limit, "kube-system": "all", "other": "all"},
        sessions=live() if sessions is None else sessions,
        agents=frozenset({"n1", "n2"}),
        **more,
    )
