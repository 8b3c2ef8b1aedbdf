"""A real Kubernetes on one machine: control plane, nodes and laptops, each in namespaces of its own. Used by tests/cluster only.

Nothing of it shows outside: no address, route, rule or mount in the machine's own namespaces; see :mod:`kubelab.machine`.
"""

from kubelab.cluster import Cluster
from kubelab.images import Images
from kubelab.machine import Machine
from kubelab.tools import LabError, wait_until

__all__ = ["Cluster", "Images", "LabError", "Machine", "wait_until"]
