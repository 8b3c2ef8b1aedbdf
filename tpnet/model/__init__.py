"""Plain data: what people ask for, what is true, and the errors they can act on.

Imports nothing of ours but ``tpnet.text``.
"""

from tpnet.model.about import About
from tpnet.model.errors import Conflict, InvalidInput, NotThere, Refused, TpnetError
from tpnet.model.handler import LOCALHOST, Handler, parse_handler, split_handler
from tpnet.model.kinds import (
    Condition,
    ConditionStatus,
    EndpointReport,
    InterceptReport,
    InterceptSpec,
    MissedReport,
    NodeAgentSpec,
    NodeReport,
    SessionSpec,
    TargetKind,
    TargetRef,
)
from tpnet.model.names import is_object_name
from tpnet.model.objects import (
    CONNECT_SECONDS,
    MAX_CONNECT_SECONDS,
    HeaderRule,
    Intercept,
    OnFailure,
    PathKind,
    PathRule,
    Session,
)
from tpnet.model.status import (
    AgentStatus,
    ExplainStep,
    Explanation,
    InterceptStatus,
    SessionGrant,
    SessionStatus,
    Status,
    TargetInfo,
    TargetStatus,
)
from tpnet.text import clean, printable

__all__ = [
    "CONNECT_SECONDS",
    "LOCALHOST",
    "MAX_CONNECT_SECONDS",
    "About",
    "AgentStatus",
    "Condition",
    "ConditionStatus",
    "Conflict",
    "EndpointReport",
    "ExplainStep",
    "Explanation",
    "Handler",
    "HeaderRule",
    "Intercept",
    "InterceptReport",
    "InterceptSpec",
    "InterceptStatus",
    "InvalidInput",
    "MissedReport",
    "NodeAgentSpec",
    "NodeReport",
    "NotThere",
    "OnFailure",
    "PathKind",
    "PathRule",
    "Refused",
    "Session",
    "SessionGrant",
    "SessionSpec",
    "SessionStatus",
    "Status",
    "TargetInfo",
    "TargetKind",
    "TargetRef",
    "TargetStatus",
    "TpnetError",
    "clean",
    "is_object_name",
    "parse_handler",
    "printable",
    "split_handler",
]
