"""Where intercepts come from: what tools and sessions ask of an agent, and what answers."""

from tpnet.control.base import Control

__all__ = ["Control"]
