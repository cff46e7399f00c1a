"""What a user may choose about a torch session. Light: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from innerq_export.errors import ConfigError

DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class TorchOptions:
    """`dtype`: of weights and activations, None is the engine's; float32 keeps its cache in float16 on a card.

    `device`: "cuda", "cpu" or "auto", the card where there is one. `tp`: processes over which heads and weights are
    split, a card each. `compiled`: let torch compile the layers for single tokens (seconds, once a batch size).
    """

    dtype: str | None = None
    device: str = "auto"
    tp: int = 1
    compiled: bool = False

    @property
    def changed(self) -> tuple[str, ...]:
        """The options that are not the defaults, as `run` writes them."""
        pairs = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return tuple(f"{name} {value}" for name, value, default in pairs if value != default)

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError("unknown dtype", expected=", ".join(DTYPES), got=self.dtype, fix="--dtype float16")
        if self.tp < 1:
            raise ConfigError("impossible --tp", expected="1 or more", got=self.tp, fix="leave it out")
