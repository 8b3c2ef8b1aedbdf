"""Which requests an intercept takes: flags to rules, rules to an index, a request to an intercept. Pure.

The command line parses flags here, the agent checks and compares intercepts, the worker decides each request.
Imports nothing of ours but ``tpnet.model``, and never touches a socket, a file or a clock.
"""

from tpnet.rules.conflict import conflict_error, find_conflict, older_takes, takes_all
from tpnet.rules.describe import AUTO_HEADER, describe
from tpnet.rules.explain import header_check
from tpnet.rules.parse import Rules, check_rules, new_auto_id, parse_rules
from tpnet.rules.personal import is_personal
from tpnet.rules.probes import Probe, ProbeSet
from tpnet.rules.ruleset import RuleSet
from tpnet.rules.sealed import opens
from tpnet.rules.view import HeadView

__all__ = [
    "AUTO_HEADER",
    "HeadView",
    "Probe",
    "ProbeSet",
    "RuleSet",
    "Rules",
    "check_rules",
    "conflict_error",
    "describe",
    "find_conflict",
    "header_check",
    "is_personal",
    "new_auto_id",
    "older_takes",
    "opens",
    "parse_rules",
    "takes_all",
]
