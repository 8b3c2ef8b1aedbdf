"""Two developers on one service, 100 requests a second on it, and what is to be true of both afterwards."""

import contextlib
import json

from kubelab import tools
from ledger import Ledger
from person import Person
from traces import traces

from tpnet.datapath.netns import NetNs

SHOP = {"TERMINATION_DELAY": "3s"}


def wait_until(condition, seconds, why=lambda: "it did not happen"):
    tools.wait_until(condition, seconds, why)


class Scene:
    """A shop of four replicas in ``namespace``, bob and alice who intercept it, and the load, which runs.

    When the block ends they leave, and no network namespace of a node, pod or laptop may look otherwise than before.
    """

    def __init__(self, cluster, namespace):
        self.cluster, self.namespace = cluster, namespace
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, failed, *_):
        self._stack.close()
        if failed is None:
            # Who lost the right to delete an intercept leaves it to its session's end.
            wait_until(lambda: not self._left(), 60, lambda: "\n--\n".join(self._left()))

    def _left(self):
        """What a namespace holds that none held before, for each."""
        before = [set(text.splitlines()) for text in self._before]
        found = []
        for text in traces(*self.cluster.nodes, *self.cluster.laptops) - self._before:
            lines = set(text.splitlines())
            found.append("\n".join(sorted(min((lines ^ other for other in before), key=len))))
        return found

    def _begin(self):
        self.cluster.run_shop(self.namespace, "orders", replicas=4, env=SHOP)
        self._before = traces(*self.cluster.nodes, *self.cluster.laptops)
        self.bob = Person(self.cluster, self.namespace, "bob", 0)
        self._stack.callback(self.bob.close)
        self.alice = Person(self.cluster, self.namespace, "alice", 1)
        self._stack.callback(self.alice.close)
        for person in (self.bob, self.alice):
            made = person.intercept()
            assert "intercept" in made, made
        self.settled(4)
        self.netns = self._stack.enter_context(NetNs.from_name(self.cluster.nodes[0].netns))
        self.ledger = self._stack.enter_context(self.load())
        for who in ("bob", "alice"):
            self.ledger.wait_for(who, who)
        self.ledger.wait_for("", "app")

    def load(self):
        address = self.cluster.service_ip(self.namespace, "orders")
        return Ledger(self.netns, (address, 80), ("bob", "alice"))

    def kubectl(self, *argv):
        return self.cluster.kubectl("-n", self.namespace, *argv)

    def patch(self, kind, change):
        self.kubectl("patch", kind, "orders", "--type=merge", "-p", json.dumps(change))

    def scale(self, replicas, seconds=40):
        self.kubectl("scale", "deployment", "orders", f"--replicas={replicas}")
        if replicas:
            self.settled(replicas, seconds)

    def settled(self, replicas, seconds=40):
        """Wait until exactly so many replicas are there, and redirected."""

        def there():
            deployment = json.loads(self.kubectl("get", "deployment", "orders", "-o", "json").stdout)[
                "status"
            ]
            tpi = json.loads(self.kubectl("get", "tpi", "orders-bob", "-o", "json").stdout)["status"]
            return (
                deployment.get("readyReplicas") == deployment.get("replicas") == replicas
                and tpi.get("redirected") == f"{replicas}/{replicas}"
            )

        wait_until(there, seconds, lambda: self.kubectl("get", "tpi,pods", "-o", "wide").stdout)

    def everybody_has_theirs(self):
        for who in ("bob", "alice"):
            self.ledger.wait_for(who, who)
        self.ledger.wait_for("", "app")

    def check(self, *, closed=True):
        """The ledger's word so far."""
        self.ledger.check()
        if not closed:
            assert self.ledger.closed() == []
