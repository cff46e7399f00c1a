"""What the rewrite did: counts per rule, and for what did not match the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A node that a rule looked at and left alone, and why."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True)
class RewriteReport:
    """`counts`: applications by rule name; `dropped`: inputs and outputs that the network no longer has."""

    layers: int
    lowering: str
    counts: dict[str, int]
    refusals: tuple[Refusal, ...] = ()
    dropped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return asdict(self)
