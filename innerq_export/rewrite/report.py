"""What the rewrite did: counts per rule, and for what did not match the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A node that a rule looked at and left alone, and why."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True)
class RewriteReport:
    """`counts`: applications by rule name; `dropped_inputs`: inputs of the given graph that nobody reads any more."""

    layers: int
    lowering: str
    counts: dict[str, int]
    refusals: tuple[Refusal, ...] = ()
    dropped_inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return asdict(self)
