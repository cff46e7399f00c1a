"""Checkpoints of full-size shapes without full-size files: the weights are holes, which read as zeros."""

import json
from pathlib import Path
from typing import Any

from innerq_export.checkpoint.header import ITEM_BYTES
from tests.models import TINY


def sparse_llama(folder: Path, dtype: str = "F16", **config: Any) -> Path:
    """Write config.json and one sparse model.safetensors of a Llama with the sizes TINY | `config`."""
    sizes = TINY | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | config
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(sizes))
    header, end = {}, 0
    for name, shape in _shapes(sizes).items():
        begin, end = end, end + ITEM_BYTES[dtype] * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return folder


def _shapes(sizes: dict[str, Any]) -> dict[str, list[int]]:
    hidden, wide, dim = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    queries, keys = sizes["num_attention_heads"] * dim, sizes["num_key_value_heads"] * dim
    layer = {
        "self_attn.q_proj": [queries, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, queries],
        "mlp.gate_proj": [wide, hidden],
        "mlp.up_proj": [wide, hidden],
        "mlp.down_proj": [hidden, wide],
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
    }
    shapes = {"model.embed_tokens.weight": [sizes["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for number in range(sizes["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes if sizes["tie_word_embeddings"] else shapes | {"lm_head.weight": [sizes["vocab_size"], hidden]}
