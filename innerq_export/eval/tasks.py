"""Tasks of EleutherAI's lm-eval with the cache in use: its Hugging Face model, generating with InnerQCache.

`paper` and `paper-instruct` are the settings of the scripts published with arXiv 2602.23200: their tasks, seed 89, one
question at a time, fp16 on a card; the instruct tasks with the model's chat template.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.eval.model import pick_device
from innerq_export.spec import CacheConfig

SEED = 89
NAMED = {"paper": ("gsm8k", "minerva_math500"), "paper-instruct": ("mbpp_instruct", "humaneval_instruct")}
CODE_VARIABLE = "HF_ALLOW_CODE_EVAL"


@dataclass(frozen=True)
class TaskOptions:
    """Which lm-eval tasks (or a name of NAMED) under which caches, by name; `limit`: questions of each, None: all."""

    tasks: tuple[str, ...]
    caches: tuple[tuple[str, CacheConfig], ...]
    limit: int | None = None
    include: Path | None = None
    device: str = "auto"


def run_tasks(checkpoint: Checkpoint, options: TaskOptions) -> dict[str, Any]:
    """Return each task's metrics for the fp16 cache and every cache of `options`.

    Raises EnvironmentMismatchError without lm-eval, UserError for tasks it does not know and for those that generate
    nothing.
    """
    _require()
    names = [name for task in options.tasks for name in NAMED.get(task, (task,))]
    caches = (("fp16", None), *options.caches)
    results = {name: _run(checkpoint, names, cache, options) for name, cache in caches}
    return {"model": checkpoint.source, "tasks": names, "seed": SEED, "limit": options.limit, "results": results}


def _run(checkpoint: Checkpoint, tasks: list[str], cache: CacheConfig | None, options: TaskOptions) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from innerq_export.eval.lm_eval_model import QuantisedCacheLM

    manager = TaskManager(include_path=str(options.include) if options.include else None)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        fix = "see `lm-eval ls tasks`; name a folder of your own with --include-path"
        raise UserError(f"lm-eval knows no task '{unknown[0]}'", got=unknown[0], fix=fix)
    found = lm_eval.simple_evaluate(
        model=QuantisedCacheLM(checkpoint.folder, cache, pick_device(options.device)),
        tasks=tasks,
        task_manager=manager,
        limit=options.limit,
        apply_chat_template=any(task.endswith("_instruct") for task in tasks),
        confirm_run_unsafe_code=os.environ.get(CODE_VARIABLE) == "1",
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
    )
    return {task: _metrics(found["results"][task]) for task in tasks}


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one task by 'metric' or 'metric (filter)', standard errors left beside them."""
    return {
        name.replace(",none", "").replace(",", " "): float(value)
        for name, value in result.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "," in name
    }


def task_table(told: Mapping[str, Any]) -> str:
    """Return a result of `run_tasks` as a Markdown table."""
    lines = ["| cache | task | metric | value |", "| --- | --- | --- | --- |"]
    for cache, tasks in told["results"].items():
        for task, metrics in tasks.items():
            lines += [f"| `{cache}` | {task} | {metric} | {value:.4f} |" for metric, value in metrics.items()]
    return "\n".join(lines)


def _require() -> None:
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        raise EnvironmentMismatchError(
            "--tasks needs EleutherAI's lm-eval", got="not installed", fix="pip install 'innerq-export[eval]'"
        )
