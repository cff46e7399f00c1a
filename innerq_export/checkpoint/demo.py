"""The built-in demo model `llama`: a small trained byte-level Llama, copied out of this package on first use.

scripts/train_demo_model.py made it; demo_model/README.md says from which text, and what it reaches.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from innerq_export.errors import EnvironmentMismatchError

NAME = "llama"
NOTES = ("a demo model of 3 million parameters: it has read the King James Bible and Jane Austen, and nothing else",)
PROMPT = "And it came to pass in those days, that"
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
    folder = cache_root() / f"demo-llama-2-{training_record()['weights_sha256'][:8]}"
    if not folder.is_dir():
        with writing_to_cache(f"the demo model to {folder}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(folder)
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


@contextmanager
def writing_to_cache(what: str) -> Iterator[None]:
    """Turn the system's refusal to write `what` below `cache_root()` into EnvironmentMismatchError."""
    try:
        yield
    except OSError as error:
        raise EnvironmentMismatchError(
            f"cannot write {what}",
            got=error.strerror or str(error),
            fix="set INNERQ_EXPORT_CACHE to a folder that can be written",
        ) from error


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
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    (folder / "model.safetensors").write_bytes((PACKAGED / "model.safetensors").read_bytes())
    write_tokenizer(folder)


def training_record() -> dict[str, Any]:
    """Return what scripts/train_demo_model.py wrote down: time, card, losses, what the weights reach, their SHA-256."""
    return json.loads((PACKAGED / "training.json").read_text(encoding="utf-8"))


def held_out_text() -> bytes:
    """Return 367,315 bytes of the Bible and Austen's novels, in pieces of 64 KiB, that no model here was trained on."""
    return lzma.decompress((PACKAGED / "heldout.txt.xz").read_bytes())


def write_tokenizer(folder: Path) -> None:
    """Write the byte-level tokenizer into `folder`, as AutoTokenizer reads it."""
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2), encoding="utf-8")


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
