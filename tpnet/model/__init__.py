"""Plain data: what people ask for, what is true, and the errors they can act on. Imports nothing of ours."""

from tpnet.model.errors import Conflict, InvalidInput, NotThere, Refused, TpnetError
from tpnet.model.objects import HeaderRule, Intercept, OnFailure, PathKind, PathRule, Session
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

__all__ = [
    "AgentStatus",
    "Conflict",
    "ExplainStep",
    "Explanation",
    "HeaderRule",
    "Intercept",
    "InterceptStatus",
    "InvalidInput",
    "NotThere",
    "OnFailure",
    "PathKind",
    "PathRule",
    "Refused",
    "Session",
    "SessionGrant",
    "SessionStatus",
    "Status",
    "TargetInfo",
    "TargetStatus",
    "TpnetError",
]
