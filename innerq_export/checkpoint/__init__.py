"""Stage 1: what the user names becomes a `Checkpoint`: config and tensor positions, no weights."""

from innerq_export.checkpoint.open import open_checkpoint

__all__ = ["open_checkpoint"]
