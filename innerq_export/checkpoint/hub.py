"""A hub id to a local folder, through huggingface_hub's own cache. Weights as safetensors only, no code files."""

from __future__ import annotations

import re
from pathlib import Path

from innerq_export.errors import CheckpointError, EnvironmentMismatchError, UserError

PATTERNS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_hub_id(source: str) -> bool:
    """Tell whether `source` has the form of a hub id, `owner/name`."""
    return _ID.fullmatch(source) is not None and ".." not in source


def download(source: str) -> Path:
    """Return the local folder of hub model `source`, downloading what is not cached yet."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=[*PATTERNS, *TOKENIZER_PATTERNS]))
    except Exception as error:
        raise explain(source, error) from error


def explain(source: str, error: Exception) -> UserError:
    """Return what to tell a user about an error of huggingface_hub."""
    from huggingface_hub import errors

    login = "accept the model's terms on its page, then run: hf auth login"
    if isinstance(error, errors.GatedRepoError):
        return EnvironmentMismatchError(f"hub model '{source}' needs permission", fix=login)
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        fix = "check the spelling; for a private model run: hf auth login; for a local folder give its path"
        return CheckpointError(f"no folder and no hub model is named '{source}'", fix=fix)
    return EnvironmentMismatchError(
        f"hub model '{source}' cannot be downloaded",
        expected="a network connection to the hub, or the model in its local cache",
        got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
        fix="connect, or download it elsewhere and give the folder's path; 'llama' needs no network",
    )
