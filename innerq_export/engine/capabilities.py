"""Compute capabilities as users write them, '8.9', and as TensorRT-RTX names them, SM89."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from innerq_export.errors import ConfigError


def capability_codes(trt: Any, texts: Sequence[str]) -> list[Any]:
    """Return the members of `trt.ComputeCapability`; ConfigError lists the known cards for any other text."""
    known = {_text(name): code for name, code in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    for text in texts:
        if text not in known:
            raise ConfigError(
                "unknown compute capability for TensorRT-RTX",
                expected=f"one of {', '.join(known)}",
                got=text,
                fix="choose one of these with --compute-capability",
            )
    return [known[text] for text in texts]


def _text(name: str) -> str:
    """SM120 -> '12.0'."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"
