"""Calibration: lambda of a checkpoint for `key_norm="folded"`, from the keys that a text of the user's makes.

lambda_c = fp16(sqrt(max over the tokens of abs K[t, c])), as SPEC section 5 has it for a prompt, but over a text, once.
The first tokens of a sequence are left out: they are its sinks, which the cache never quantises, and their keys stand
apart from all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from innerq_export.artifacts import Checkpoint, KeyNorm
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.graph.attention import traced_attention
from innerq_export.graph.bind import find_tensors
from innerq_export.graph.fold import check_foldable, lambda_of
from innerq_export.graph.skeleton import build_skeleton, parameter_aliases
from innerq_export.graph.streamed import stream_weights
from innerq_export.progress import Progress, Silent, Step

SEQUENCE = 2048
MAX_TOKENS = 4096
_NAME = "innerq_export_calibrate"
_KEYWORD = "innerq_peaks"


def calibrate(
    checkpoint: Checkpoint,
    text: Path,
    *,
    sink: int = 32,
    max_tokens: int = MAX_TOKENS,
    progress: Progress | None = None,
) -> KeyNorm:
    """Return the lambda of `checkpoint` on the first `max_tokens` tokens of `text` (UTF-8, read with its tokenizer).

    The text is cut into sequences of one length, at most 2,048 tokens and the model's context. Computed in fp32, a
    module's weights at a time. Raises ConfigError for a text that cannot be read or has no token past `sink`,
    CheckpointError for a model without tokenizer.json or one that cannot be folded.
    """
    ids_BS = _sequences(_tokens(checkpoint, text, max_tokens), min(SEQUENCE, checkpoint.shape.max_positions))
    if ids_BS.shape[1] <= sink:
        raise ConfigError(
            f"{text} is too short to calibrate on",
            expected=f"more than {sink} tokens: the first {sink} of a sequence are never quantised",
            got=f"{ids_BS.shape[1]} tokens",
            fix="name a longer text, or raise --max-tokens or lower --sink",
        )
    with (progress or Silent()).stage("calibrating key normalisation") as step:
        found = _lambda(checkpoint, ids_BS, sink, step)
    return KeyNorm(found, checkpoint.digest, text.name, ids_BS.numel())


def _lambda(checkpoint: Checkpoint, ids_BS: Tensor, sink: int, step: Step) -> Any:
    shape = checkpoint.shape
    model = build_skeleton(checkpoint.config, torch.float32, _NAME)
    check_foldable(model)
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stream_weights(model, find_tensors(checkpoint, parameter_aliases(model), sizes))
    peaks: dict[int, Tensor] = {}

    def see(layer: int, key_BHkvSD: Tensor) -> None:
        peaks[layer] = key_BHkvSD[:, :, sink:].abs().amax((0, 2))
        step.advance(len(peaks) / shape.layers, f"layer {layer}")

    given: dict[str, Any] = {_KEYWORD: see}
    with torch.no_grad():
        model.get_decoder()(input_ids=ids_BS, position_ids=_positions(ids_BS), use_cache=False, **given)
    peak_LHkvD = torch.stack([peaks[layer] for layer in range(shape.layers)])
    if not peak_LHkvD.isfinite().all():
        raise CheckpointError("the model's keys are not finite on this text", fix="check the checkpoint's weights")
    return lambda_of(model, shape, peak_LHkvD)


def _positions(ids_BS: Tensor) -> Tensor:
    return torch.arange(ids_BS.shape[1]).expand(ids_BS.shape)


def _sequences(ids: list[int], length: int) -> Tensor:
    """Return the tokens as the fewest sequences of at most `length` tokens, all alike; a few last tokens may go."""
    count = max(1, -(-len(ids) // length))
    kept = len(ids) // count * count
    return torch.tensor(ids[:kept], dtype=torch.int64).reshape(count, -1)


def _tokens(checkpoint: Checkpoint, text: Path, most: int) -> list[int]:
    tokenizer = checkpoint.folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(
            f"{checkpoint.folder} has no tokenizer.json to read the text with",
            fix="save it with the model: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    from tokenizers import Tokenizer

    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{text} cannot be read as text", got=error, fix="name a file of UTF-8 text") from error
    ids = Tokenizer.from_file(str(tokenizer)).encode(content).ids[:most]
    if ids and max(ids) >= checkpoint.shape.vocab:
        raise CheckpointError(
            "the tokenizer leaves the vocabulary",
            expected=f"tokens below {checkpoint.shape.vocab}",
            got=max(ids),
            fix="put the model's own tokenizer.json into its folder",
        )
    return ids


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **features: Any
) -> tuple[Tensor, None]:
    features.pop(_KEYWORD)(module.layer_idx, key)
    return traced_attention(module, query, key, value, mask, **features)


AttentionInterface.register(_NAME, _attention)
