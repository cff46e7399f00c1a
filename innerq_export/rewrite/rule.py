"""A rule of the rewrite: an onnxscript pattern, a check that gives a reason, a replacement, and a count."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase

from innerq_export.rewrite.report import Refusal

NOT_A_CANDIDATE = ""
"""What `refuse` returns for a match that is nothing of what the rule is about: not rewritten, and not reported."""


class CountedRule(RewriteRuleClassBase):
    """Derived rules give `pattern`, `refuse` and `rewrite`; the matched root value is called `output` in all three.

    `run` applies the rule to a model and returns how often. `refusals` says where the pattern matched and `refuse` did
    not agree.
    """

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)
        self.refusals: list[Refusal] = []

    def refuse(self, *args: Any, **bindings: Any) -> str | None:
        """Return why the match must not be rewritten, or None where it may be."""
        raise NotImplementedError

    def check(self, op: Any, *args: Any, **bindings: Any) -> MatchResult:
        """Turn the reason of `refuse` into onnxscript's result, and remember it."""
        result = MatchResult()
        reason = self.refuse(**bindings)
        if reason is not None:
            node = bindings["output"].producer()
            result.fail(reason, node)
            if reason != NOT_A_CANDIDATE:
                self.refusals.append(Refusal(self.name, str(node and node.name), reason))
        return result

    def run(self, model: ir.Model) -> int:
        """Apply the rule wherever it holds; return the number of applications."""
        rule = RewriteRule(self.pattern, self.rewrite, self.check, name=self.name, remove_nodes=self.remove_nodes)
        return rule.apply_to_model(model)
