"""NVIDIA cards by the names people use: memory that a process can have, and compute capability.

GiB are the capacities of NVIDIA's data sheets less what the driver and ECC keep, rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass

from innerq_export.engine.card import first_card
from innerq_export.errors import ConfigError, nearest

_GIB = 1 << 30


@dataclass(frozen=True)
class GpuCard:
    """A kind of card: `memory` bytes that one process can use, compute capability such as '9.0'."""

    name: str
    memory: int
    compute_capability: str


def _card(name: str, gib: float, capability: str) -> GpuCard:
    return GpuCard(name, int(gib * _GIB), capability)


_ALL = (
    _card("b200", 178, "10.0"),
    _card("h200", 139, "9.0"),
    _card("h100", 79, "9.0"),
    _card("a100", 79, "8.0"),
    _card("a100-40g", 39, "8.0"),
    _card("l40s", 44, "8.9"),
    _card("l4", 22, "8.9"),
    _card("a10", 22, "8.6"),
    _card("rtx-6000-ada", 47, "8.9"),
    _card("rtx-a6000", 47, "8.6"),
    _card("rtx-5090", 31, "12.0"),
    _card("rtx-5080", 15.5, "12.0"),
    _card("rtx-4090", 23.5, "8.9"),
    _card("rtx-4080", 15.5, "8.9"),
    _card("rtx-4070", 11.5, "8.9"),
    _card("rtx-3090", 23.5, "8.6"),
    _card("rtx-3060", 11.5, "8.6"),
)
CARDS: dict[str, GpuCard] = {card.name: card for card in _ALL}


def find_card(name: str | None) -> GpuCard | None:
    """Return the card of this name, by default this machine's if it has one that is known. ConfigError for a typo."""
    if name is None:
        present = first_card()
        return None if present is None else _known(present.name)
    found = CARDS.get(name.lower())
    if found is None:
        raise ConfigError(
            f"unknown card '{name}'",
            expected=f"one of {', '.join(CARDS)}",
            got=name,
            fix=f"{nearest(name.lower(), CARDS)}; of another card give the memory, for example --memory 24G",
        )
    return found


def _known(driver_name: str) -> GpuCard | None:
    """Return the card with the longest name of whose words all are in the driver's, 'NVIDIA GeForce RTX 4090'."""
    words = set(driver_name.lower().replace("-", " ").split())
    fitting = [card for card in _ALL if set(card.name.split("-")) <= words]
    return max(fitting, key=lambda card: len(card.name), default=None)
