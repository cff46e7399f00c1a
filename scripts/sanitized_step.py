"""Small steps of every kernel for compute-sanitizer: prefill, decode with and without a flush, attend, dequantise.

Small, because the sanitizer runs a hundred times slower: two sequences, all presets, pages and plain arrays.
"""

from __future__ import annotations

import torch

from innerq_export.integrations import calls
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.integrations.library import load
from innerq_export.spec import PRESETS


def main() -> None:
    library = load("cuda")
    for name, page_blocks in ((name, pages) for name in PRESETS for pages in (0, 2)):
        config = PRESETS[name]
        cache = empty_packed_cache(config, 2, 2, 128, 9, device="cuda", page_blocks=page_blocks)
        past = torch.zeros(2, dtype=torch.int32, device="cuda")
        for tokens in (200, 24, 1, 4):
            new = torch.tensor([tokens, max(0, tokens - 1)], dtype=torch.int32, device="cuda")
            query = torch.randn(2, 8, tokens, 128, device="cuda").half()
            key, value = (torch.randn(2, 2, tokens, 128, device="cuda").half() for _ in range(2))
            calls.append(library, cache, key, value, past, new)
            if tokens <= 16:
                assert torch.isfinite(calls.attend(library, cache, query, key, value, past, new)).all()
            past += new
        calls.dequantise(library, cache, past, int(past.max()))
        assert cache.flags.item() == 0
    torch.cuda.synchronize()
    print("ran", len(PRESETS) * 2, "caches")


if __name__ == "__main__":
    main()
