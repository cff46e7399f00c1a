"""Attention over unquantised or fp8 caches by others, timed by the same method in the same process."""

from __future__ import annotations

from collections.abc import Iterator

from innerq_export.bench.peers.base import Peer, Prepared

__all__ = ["Peer", "Prepared", "available"]


def available(with_flashinfer: bool = True) -> Iterator[Peer]:
    """Yield the peers that can be imported; what a shape asks of them may still be refused, with a reason."""
    from innerq_export.bench.peers import sdpa

    yield from sdpa.PEERS
    if with_flashinfer:
        try:
            import flashinfer  # noqa: F401
        except ImportError:
            return
        from innerq_export.bench.peers import flashinfer as ours

        yield from ours.PEERS
