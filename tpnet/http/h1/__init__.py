"""HTTP/1 (RFC 9112): heads, bodies, and the conversation on one client connection."""

from tpnet.http.h1.conversation import Conversation

__all__ = ["Conversation"]
