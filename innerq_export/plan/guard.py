"""The gate before a build: a lack of memory or disk that can be foreseen is refused before any work."""

from __future__ import annotations

from innerq_export.errors import ConfigError, OutOfMemoryError
from innerq_export.plan.plan import Plan


def check_plan(plan: Plan, saved: Plan | None = None, *, ignore_memory: bool = False) -> None:
    """Raise OutOfMemoryError for the first lack of memory or disk that `plan` foresees, unless told to ignore it.

    ConfigError if the model is not the one that was `saved`. All other problems are left to the stages, which refuse
    them by name. The memory of a card counts where the saved plan names one.
    """
    if saved is not None and saved.digest != plan.digest:
        raise ConfigError(
            f"{plan.request.model} is no longer the model that was planned",
            expected=f"headers with digest {saved.digest[:16]}",
            got=plan.digest[:16],
            fix="plan it again: innerq-export plan MODEL --save FILE",
        )
    for problem in plan.problems:
        if problem.code == OutOfMemoryError.exit_code and not ignore_memory:
            raise OutOfMemoryError(f"foreseen: {problem.text}", fix=problem.fix)
