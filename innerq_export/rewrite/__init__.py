"""Stage 3: standard `Attention` becomes InnerQAppend and InnerQAttention over a quantised cache."""

from innerq_export.rewrite.functions import FLAVOURS
from innerq_export.rewrite.prepare import prepare_for_rtx
from innerq_export.rewrite.report import Refusal, RewriteReport
from innerq_export.rewrite.rewrite import LOGITS, rewrite

__all__ = ["FLAVOURS", "LOGITS", "Refusal", "RewriteReport", "prepare_for_rtx", "rewrite"]
