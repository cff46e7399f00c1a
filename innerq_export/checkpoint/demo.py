"""The built-in demo model `llama`: a small byte-level Llama, made from a seed on first use, kept in a cache folder."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.errors import EnvironmentMismatchError

if TYPE_CHECKING:
    import numpy as np

NAME = "llama"
NOTES = ("seeded random weights: the text is noise",)
SEED = 20260222
VERSION = f"demo-llama-1-{SEED}"
PACKAGED = files("innerq_export.checkpoint") / "demo_model"
SPECIALS = ("<bos>", "<eos>", "<pad>", *(f"<reserved_{n}>" for n in range(5)))
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 256 + len(SPECIALS),
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "dtype": "float16",
}


def demo_folder() -> Path:
    """Return the demo checkpoint's folder; the first call writes it, atomically. Raises EnvironmentMismatchError."""
    folder = cache_root() / VERSION
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(folder)
        except OSError as error:
            raise EnvironmentMismatchError(
                f"cannot write the demo model to {folder}",
                got=error.strerror or str(error),
                fix="set INNERQ_EXPORT_CACHE to a folder that can be written",
            ) from error
    return folder


def cache_root() -> Path:
    """Return this program's cache folder: $INNERQ_EXPORT_CACHE, or the platform's usual place."""
    if named := os.environ.get("INNERQ_EXPORT_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "innerq-export"


def _write_atomically(folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_demo(unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_demo(folder: Path) -> None:
    """Write config, weights and tokenizer of the demo model into `folder`."""
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)


def held_out_text() -> bytes:
    """Return 367,315 bytes of the Bible and Austen's novels, in pieces of 64 KiB, that no model here was trained on."""
    return lzma.decompress((PACKAGED / "heldout.txt.xz").read_bytes())


def write_tokenizer(folder: Path) -> None:
    """Write the byte-level tokenizer into `folder`, as AutoTokenizer reads it."""
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2), encoding="utf-8")


def _weights() -> dict[str, np.ndarray]:
    """Return fp16 weights of a scale at which scores spread (standard deviation about 2.5), so attention is peaked."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    hidden, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries, keys = (
        CONFIG["num_attention_heads"] * CONFIG["head_dim"],
        CONFIG["num_key_value_heads"] * CONFIG["head_dim"],
    )

    def normal(rows: int, columns: int, deviation: float) -> np.ndarray:
        return (generator.standard_normal((rows, columns), dtype=np.float32) * deviation).astype(np.float16)

    weights = {"model.embed_tokens.weight": normal(CONFIG["vocab_size"], hidden, 0.25)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.self_attn.q_proj.weight": normal(queries, hidden, 0.1),
            f"{prefix}.self_attn.k_proj.weight": normal(keys, hidden, 0.1),
            f"{prefix}.self_attn.v_proj.weight": normal(keys, hidden, hidden**-0.5),
            f"{prefix}.self_attn.o_proj.weight": normal(hidden, queries, queries**-0.5),
            f"{prefix}.mlp.gate_proj.weight": normal(wide, hidden, hidden**-0.5),
            f"{prefix}.mlp.up_proj.weight": normal(wide, hidden, hidden**-0.5),
            f"{prefix}.mlp.down_proj.weight": normal(hidden, wide, wide**-0.5),
            f"{prefix}.input_layernorm.weight": np.ones(hidden, np.float16),
            f"{prefix}.post_attention_layernorm.weight": np.ones(hidden, np.float16),
        }
    return weights | {"model.norm.weight": np.ones(hidden, np.float16)}


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIALS[0],
    "eos_token": SPECIALS[1],
    "pad_token": SPECIALS[2],
    "model_max_length": CONFIG["max_position_embeddings"],
    "clean_up_tokenization_spaces": False,
}


def _tokenizer() -> Any:
    """Return a tokenizer whose token id is the byte's value; special tokens follow from 256; `<bos>` is prepended."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[0]} $A", pair=f"{SPECIALS[0]} $A $B", special_tokens=[(SPECIALS[0], 256)]
    )
    return tokenizer


def _byte_characters() -> list[str]:
    """Return GPT-2's printable stand-in for each byte: printable Latin-1 stays, the others move to U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
