"""TensorRT-LLM 1.2's layout of an engine folder: `config.json` and `rank0.engine`, for tools that read sizes from it.

Field names are those of its EngineConfig (`version`, `pretrained_config`, `build_config`), as its checkpoint
documentation and its C++ reader of config.json name them. The Hugging Face fields stay beside them: transformers reads
the file as before. TensorRT-LLM cannot run the engine, whose inputs are InnerQ's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from innerq_export.artifacts import OnnxModel
from innerq_export.engine.profiles import Profile, largest
from innerq_export.engine.tensorrt_rtx import PLAN_NAME
from innerq_export.spec import GROUP_SIZE

LAYOUT_VERSION = "1.2.1"
CONFIG_NAME, RANK_NAME = "config.json", "rank0.engine"


def write_layout(folder: Path, model: OnnxModel, profiles: Sequence[Profile]) -> None:
    """Add the three fields to config.json (made if there is none) and rank0.engine, a hard link to the plan."""
    path = folder / CONFIG_NAME
    hugging_face = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    merged = hugging_face | engine_config(hugging_face, model, profiles)
    path.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
    try:
        os.link(folder / PLAN_NAME, folder / RANK_NAME)
    except OSError:
        shutil.copy2(folder / PLAN_NAME, folder / RANK_NAME)


def engine_config(hugging_face: Mapping[str, Any], model: OnnxModel, profiles: Sequence[Profile]) -> dict[str, Any]:
    """Return the three fields; what only the Hugging Face config knows is left out where `hugging_face` is empty."""
    described = pretrained_config(hugging_face, model)
    return {
        "version": LAYOUT_VERSION,
        "pretrained_config": {name: value for name, value in described.items() if value is not None},
        "build_config": build_config(profiles, all_logits=_has_all_logits(model)),
    }


def pretrained_config(hugging_face: Mapping[str, Any], model: OnnxModel) -> dict[str, Any]:
    """Return the model in TensorRT-LLM's words; `innerq` adds the cache configuration, of which it has no notion."""
    shape = model.shape
    rotary = hugging_face.get("rope_parameters") or hugging_face
    return {
        "architecture": next(iter(hugging_face.get("architectures") or ["InnerQForCausalLM"])),
        "dtype": model.dtype,
        "logits_dtype": model.dtype,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "hidden_size": hugging_face.get("hidden_size") or shape.heads * shape.head_dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_size": shape.head_dim,
        "hidden_act": hugging_face.get("hidden_act"),
        "intermediate_size": hugging_face.get("intermediate_size"),
        "norm_epsilon": hugging_face.get("rms_norm_eps"),
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": rotary.get("rope_theta"),
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1, "gpus_per_node": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        "innerq": model.cache.to_dict(),
    }


def build_config(profiles: Sequence[Profile], *, all_logits: bool) -> dict[str, Any]:
    """Return the limits of the plan; `all_logits`: it gives those of every token of a prompt. `plugin_config`: none of
    TensorRT-LLM's own plugins is in it.
    """
    batch, tokens, _ = largest(profiles)
    return {
        "max_input_len": tokens,
        "max_seq_len": tokens,
        "opt_batch_size": profiles[0].batch.opt,
        "max_batch_size": batch,
        "max_beam_width": 1,
        "max_num_tokens": batch * tokens,
        "opt_num_tokens": None,
        "max_prompt_embedding_table_size": 0,
        "kv_cache_type": "CONTINUOUS",
        "gather_context_logits": all_logits,
        "gather_generation_logits": False,
        "strongly_typed": True,
        "max_draft_len": 0,
        "lora_config": {},
        "plugin_config": {
            "dtype": "auto",
            "gpt_attention_plugin": None,
            "lora_plugin": None,
            "remove_input_padding": False,
            "paged_kv_cache": False,
            "tokens_per_block": GROUP_SIZE,
            "context_fmha": False,
            "use_paged_context_fmha": False,
        },
    }


def _has_all_logits(model: OnnxModel) -> bool:
    """Whether the output `logits` is [B, S, V] and not that of last tokens."""
    import onnx

    outputs = onnx.load(model.path, load_external_data=False).graph.output
    shape = next(value for value in outputs if value.name == "logits").type.tensor_type.shape
    return len(shape.dim) == 3 and not shape.dim[1].HasField("dim_value")
