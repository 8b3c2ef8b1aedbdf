"""The kinds of objects that tpnet reads and writes in a cluster."""

from __future__ import annotations

from tpnet.control.kubernetes.api import Resource

GROUP, VERSION = "tpnet.dev", "v1alpha1"
SYSTEM_NAMESPACE = "tpnet"
"""Where the agents run and sessions live."""

INTERCEPTS = Resource(GROUP, VERSION, "intercepts", "Intercept")
SESSIONS = Resource(GROUP, VERSION, "sessions", "Session")
NODE_AGENTS = Resource(GROUP, VERSION, "nodeagents", "NodeAgent", namespaced=False)

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
