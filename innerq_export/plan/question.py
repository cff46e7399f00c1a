"""What a plan is asked for: the choices of a build, and the card that the engine shall run on."""

from __future__ import annotations

from dataclasses import dataclass, field

from innerq_export.spec import CacheConfig


@dataclass(frozen=True)
class Question:
    """A build as `innerq-export build` would be told it, in values that travel as JSON.

    `model`: `llama`, a folder or a hub id; `output`: where the engine folder will be; `card`: a name of `CARDS`, None
    for this machine's; `memory`: bytes of GPU memory that may be used, instead of all that the card has.
    """

    model: str
    output: str
    cache: CacheConfig = field(default_factory=CacheConfig)
    backend: str = "auto"
    dtype: str = "float16"
    max_batch: int = 8
    max_context: int | None = None
    logits: str = "last"
    parity: str = "fast"
    copy_weights: bool = False
    compute_capabilities: tuple[str, ...] = ()
    card: str | None = None
    memory: int | None = None
