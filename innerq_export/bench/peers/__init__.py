"""Attention over unquantised or fp8 caches by others, timed by the same method in the same process."""

from __future__ import annotations

import torch

from innerq_export.bench.peers.base import Peer, Prepared

__all__ = ["Peer", "Prepared", "available"]


def available(device: torch.device) -> tuple[list[Peer], list[str]]:
    """Return the peers that can run on a device, and of those that cannot be imported the reason.

    What a shape asks of a peer may still be refused.
    """
    from innerq_export.bench.peers import sdpa

    if device.type != "cuda":
        return [peer for peer in sdpa.PEERS if "flash" in peer.name], []
    try:
        import flashinfer  # noqa: F401
    except ImportError as error:
        return [*sdpa.PEERS], [f"FlashInfer: {error} (pip install flashinfer-python)"]
    from innerq_export.bench.peers import flashinfer as ours

    return [*sdpa.PEERS, *ours.PEERS], []
