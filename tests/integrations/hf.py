"""Tiny random decoders of several families, the tokens the reference says they generate, and a short cache config."""

from __future__ import annotations

import torch

from innerq_export.reference import append, attend, empty_cache
from innerq_export.spec import preset

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma", "granite", "olmo", "olmo2", "cohere"),
    *("starcoder2", "glm", "glm4", "seed_oss", "arcee", "mixtral"),
)
GREEDY = {"do_sample": False, "pad_token_id": 258, "eos_token_id": None}


def short(name="balanced"):
    """A preset whose window is so short that a few dozen tokens make blocks."""
    return preset(name).replace(sink=4, recent=8)


def load(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def prompts(batch, tokens, seed=0):
    return torch.randint(0, 256, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def reference_greedy(model, config, prompt, count):
    """Greedy tokens of one prompt when the reference's append and attend answer every layer."""
    from transformers import AttentionInterface

    text = model.config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    sizes = (1, text.num_key_value_heads, head_dim, 64)
    caches = [empty_cache(config, *sizes, dtype=model.dtype)] * text.num_hidden_layers

    def attention(module, query, key, value, mask, scaling=None, **_):
        past = caches[module.layer_idx].length_B
        new = torch.tensor([key.shape[2]], dtype=torch.int32)
        cache = caches[module.layer_idx] = append(caches[module.layer_idx], key, value, new)
        return attend(cache, query, key, value, past, new, scaling).transpose(1, 2), None

    AttentionInterface.register("reference_of_this_test", attention)
    before, text._attn_implementation = text._attn_implementation, "reference_of_this_test"
    ids, position, said = prompt[None], 0, []
    with torch.no_grad():
        for _ in range(count):
            at = torch.arange(position, position + ids.shape[1])[None]
            logits = model(input_ids=ids, position_ids=at, use_cache=False).logits
            position += ids.shape[1]
            ids = logits[:, -1:].argmax(-1)
            said.append(int(ids))
    text._attn_implementation = before
    return said
