"""tpnet: requests of a running service that carry your header arrive at your own computer.

The layers, top to bottom, each importing only those below it: ``agent``, ``session``, ``control``, ``tunnel``,
``datapath``, ``proxy``, ``http``, ``rules``, ``model``. The way of a request through them:
``Redirect`` -> ``Connection`` -> ``Head`` -> ``RuleSet.decide`` -> ``Verdict`` -> ``Upstream``.
"""

__version__ = "0.1.0"
