"""Attention as other exporters write it, brought into one form: standard `Attention` over [B, H, S, D], no past."""

from innerq_export.rewrite.normal.run import normalise

__all__ = ["normalise"]
