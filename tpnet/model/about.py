"""What is to be said of one field: a sentence for people, and the limits of its value.

The dataclasses of ``tpnet.model`` carry it as ``Annotated[type, About(...)]``; ``tpnet.control.kubernetes.schema``
reads it. It means nothing at run time: it must never be what keeps a bad value out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """``text`` is one or more sentences. The rest are JSON Schema's limits; ``None`` and ``""`` mean no limit.

    ``key``: the field that tells the items of a list apart; a list without is one value, replaced as a whole.
    ``item``: the same about each item of a list of texts.
    """

    text: str
    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    max_items: int | None = None
    pattern: str = ""
    format: str = ""
    key: str = ""
    item: About | None = None
