"""What key normalisation buys: mean KL of a reference cache to the unquantised model, for none, prefill and folded.

python scripts/compare_key_norms.py MODEL --text FILE [--large 16] prints a table for 2, 3 and 4 key bits (values: 8).
`--large` makes three pairs of channels of every KV head so many times as large, and the queries' as many times smaller:
the same function, with keys as large models have them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from innerq_export.artifacts import Checkpoint, KeyNorm
from innerq_export.checkpoint import open_checkpoint
from innerq_export.graph.calibrate import calibrate
from innerq_export.parity.metrics import kl_divergence
from innerq_export.parity.presets import quantised_logits
from innerq_export.parity.text import token_streams
from innerq_export.parity.torch_model import TorchModel
from innerq_export.spec import CacheConfig

TOKENS, PAIRS = 768, 3


def main() -> None:
    """Print a line for each number of bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--large", type=float, default=1.0)
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model)
    large_LHkvD = large_channels(checkpoint, asked.large)
    found = calibrate(checkpoint, asked.text).lambda_LHkvD
    norm = (found * np.sqrt(large_LHkvD)).astype(np.float16)
    print("| key bits | none | prefill | folded |\n| --- | --- | --- | --- |")
    for bits in (2, 3, 4):
        row = [
            divergence(checkpoint, large_LHkvD, lambda_LHkvD, CacheConfig(bits, value_bits=8, key_norm=key_norm))
            for key_norm, lambda_LHkvD in (("none", 1.0), ("prefill", 1.0), ("none", norm))
        ]
        print(f"| {bits} | {' | '.join(f'{kl:.4f}' for kl in row)} |")


def large_channels(checkpoint: Checkpoint, gain: float) -> np.ndarray:
    """Return the factor of every channel of the keys [L, Hkv, D]: `gain` in some pairs (halves, as in Llama)."""
    shape, random = checkpoint.shape, np.random.default_rng(0)
    factor = np.ones((shape.layers, shape.kv_heads, shape.head_dim))
    for head in factor.reshape(-1, shape.head_dim):
        low = random.choice(shape.head_dim // 2, PAIRS, replace=False)
        head[low] = head[low + shape.head_dim // 2] = gain
    return factor


def divergence(checkpoint: Checkpoint, large_LHkvD: np.ndarray, lambda_LHkvD: object, cache: CacheConfig) -> float:
    """Return the mean KL of the cache that is given K * large / lambda."""
    divisor_LHkvD = (np.asarray(lambda_LHkvD) / large_LHkvD).astype(np.float16)
    model = TorchModel(checkpoint.folder, "float16", KeyNorm(divisor_LHkvD, checkpoint.digest, "", 1))
    ids_T = token_streams(checkpoint.folder, checkpoint.shape.vocab, 1, TOKENS)[0]
    plain_TV = model.unquantised(ids_T)
    return kl_divergence(plain_TV, quantised_logits(model, checkpoint.shape, cache, ids_T)).mean().item()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
