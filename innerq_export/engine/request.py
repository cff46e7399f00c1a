"""What a user asks for: the one request that `plan` foresees and `build` carries out, in values that travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from innerq_export.artifacts import ModelShape
from innerq_export.engine.base import BuildOptions
from innerq_export.errors import ConfigError
from innerq_export.spec import CacheConfig

_USUAL_CONTEXT = 8192


@dataclass(frozen=True)
class BuildRequest:
    """A build, whether planned, asked for on the command line or made in Python.

    `model`: `llama`, a Hugging Face folder, a hub id or an .onnx file; `output`: where the engine folder will be;
    `max_context`: tokens, None is what the model was trained for, at most 8192; `key_norm_file`, `key_norm_text`: for a
    folded key norm, what `innerq-export calibrate` wrote, or a text to calibrate on; `parity`: fast, full or off (then
    the engine is not ready); `overwrite`: an engine that is there may be replaced; `fresh`: nothing that an earlier
    build made is reused. Raises ConfigError for a folded key norm without its lambda, and the other way round.
    """

    model: str
    output: Path
    cache: CacheConfig = field(default_factory=CacheConfig)
    backend: str = "auto"
    dtype: str = "float16"
    max_batch: int = 8
    max_context: int | None = None
    key_norm_file: Path | None = None
    key_norm_text: Path | None = None
    logits: str = "last"
    parity: str = "fast"
    copy_weights: bool = False
    overwrite: bool = False
    fresh: bool = False
    options: BuildOptions = field(default_factory=BuildOptions)

    def __post_init__(self) -> None:
        given = [name for name in ("key_norm_file", "key_norm_text") if getattr(self, name) is not None]
        wanted = self.cache.key_norm == "folded"
        if len(given) != int(wanted):
            raise ConfigError(
                f"key_norm '{self.cache.key_norm}' with {' and '.join(given) or 'no lambda'}",
                expected="key_norm_file or key_norm_text" if wanted else "neither key_norm_file nor key_norm_text",
                got=", ".join(given) or "nothing",
                fix="--key-norm folded --key-norm-text FILE, or --key-norm-file FILE of `innerq-export calibrate`",
            )

    def context(self, shape: ModelShape) -> int:
        """Return the most tokens of a sequence when the model has this shape."""
        return self.max_context or min(_USUAL_CONTEXT, shape.max_positions)
