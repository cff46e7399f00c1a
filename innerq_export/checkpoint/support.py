"""What this build exports, decided from config.json alone: architectures by name, features that must be off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from innerq_export.artifacts import ModelShape
from innerq_export.errors import CheckpointError, ConfigError, nearest

MIXTURES = ("MixtralForCausalLM", "Qwen3MoeForCausalLM")
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
    "Phi3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma3ForCausalLM",
    "GraniteForCausalLM",
    "OlmoForCausalLM",
    "Olmo2ForCausalLM",
    "CohereForCausalLM",
    "Starcoder2ForCausalLM",
    "GlmForCausalLM",
    "Glm4ForCausalLM",
    "SeedOssForCausalLM",
    "ArceeForCausalLM",
    *MIXTURES,
)
MIN_WINDOW = 512
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
MAX_EXPERTS = 1024
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
Config = Mapping[str, Any]


def check_support(config: Config) -> None:
    """Raise CheckpointError that names the first feature or the architecture of `config` this build cannot export."""
    for refusal in refusals(config):
        raise refusal


def refusals(config: Config) -> Iterator[CheckpointError]:
    """Yield an error for each feature, and for the architecture, of `config` that this build cannot export."""
    for feature, active, fix in _REFUSED:
        if active(config):
            yield CheckpointError(f"this model uses {feature}, which this build does not support", fix=fix)
    yield from _architecture(config)


def check_provable(config: Config, dtype: str, parity: str) -> None:
    """Raise the first ConfigError of `unprovable`."""
    for error in unprovable(config, dtype, parity):
        raise error


def unprovable(config: Config, dtype: str, parity: str) -> Iterator[ConfigError]:
    """Yield why `parity` cannot judge an engine of `config` in `dtype`.

    A router takes its k best experts. Where the last of them leads by less than the rounding of activations, two right
    computations take different ones and differ as much as two experts do; in float16 that is every few hundred tokens.
    """
    if experts_of(config) and dtype == "float16" and parity != "off":
        yield ConfigError(
            "parity cannot judge a mixture of experts in float16: rounding decides which experts a token gets",
            expected="--dtype float32, or --parity off (then the engine is not ready: run it with --allow-unready)",
            got=f"--dtype {dtype}, --parity {parity}",
            fix="--dtype float32 proves the export; --parity off builds it in float16",
        )


def _architecture(config: Config) -> Iterator[CheckpointError]:
    name = _named(config)
    if name not in ARCHITECTURES:
        expected = f"one of {', '.join(ARCHITECTURES)}"
        yield CheckpointError(
            f"architecture {name} is not supported", expected=expected, got=name, fix=nearest(name, ARCHITECTURES)
        )


def experts_of(config: Config) -> int:
    """Return the number of experts of all layers together; 0 for a dense model."""
    counts = [count for name in _EXPERT_COUNTS if type(count := config.get(name)) is int]
    return config["num_hidden_layers"] * max(counts, default=0)


def _named(config: Config) -> str:
    named = config.get("architectures") or ["(none named)"]
    return str(named[0] if isinstance(named, list) else named)[:200]


def active_window(config: Config) -> int | None:
    """Return the sliding window in tokens if some layer's attention is limited by it within the model's context."""
    window = config.get("sliding_window")
    off = config.get("use_sliding_window") is False and "sliding_attention" not in _layer_types(config)
    if off or type(window) is not int or not 0 < window < config["max_position_embeddings"]:
        return None
    return window


def _short_window(config: Config) -> bool:
    """A window too short to be the whole context; yarn would also take other frequencies from a shorter context."""
    window = active_window(config)
    return window is not None and (window < MIN_WINDOW or "yarn" in _rope_types(config))


def _layer_types(config: Config) -> list[Any]:
    kinds = config.get("layer_types")
    return kinds if isinstance(kinds, list) else []


def _other_layers(config: Config) -> bool:
    return any(kind not in ("full_attention", "sliding_attention") for kind in _layer_types(config))


def _changing_rope(config: Config) -> bool:
    return any(kind not in ROPE_TYPES for kind in _rope_types(config))


def _rope_types(config: Config) -> list[Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        return ["not an object"]
    nested = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    return [part.get("rope_type") or part.get("type") or "default" for part in nested]


def _head_dim(config: Config) -> bool:
    return ModelShape.from_config(config).head_dim % 32 != 0


_REFUSED: tuple[tuple[str, Callable[[Config], bool], str], ...] = (
    (
        f"sliding-window attention over less than {MIN_WINDOW} tokens, or together with yarn",
        _short_window,
        "choose a model with full attention or a longer window",
    ),
    (
        "rotary frequencies that change with the length (rope type dynamic or longrope)",
        _changing_rope,
        f"choose a variant with rope type {', '.join(ROPE_TYPES)}",
    ),
    ("layers that are not full attention (layer_types)", _other_layers, "choose a model with full attention only"),
    (
        "soft-capped attention scores (attn_logit_softcapping)",
        lambda config: bool(config.get("attn_logit_softcapping")),
        "choose a model without it",
    ),
    ("a head dim that is no multiple of 32", _head_dim, "choose a model with head dim 64, 128 or 256"),
    (
        "a mixture of experts",
        lambda config: _named(config) not in MIXTURES and any(config.get(name) for name in _EXPERT_COUNTS),
        f"choose a dense model, or one of {', '.join(MIXTURES)}",
    ),
    (
        f"more than {MAX_EXPERTS:,} experts in all of its layers (each becomes nodes of the graph)",
        lambda config: experts_of(config) > MAX_EXPERTS,
        "choose a model of fewer experts",
    ),
    (
        "already quantised weights (quantization_config)",
        lambda config: bool(config.get("quantization_config")),
        "name the unquantised checkpoint",
    ),
)
