"""lm-eval with the cache in use: a task of our own on a tiny model (with lm-eval installed), and what is refused."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml

from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.eval.tasks import NAMED, TaskOptions, run_tasks, task_table
from innerq_export.spec import CacheConfig, preset

HAS_LM_EVAL = importlib.util.find_spec("lm_eval") is not None
with_lm_eval = pytest.mark.skipif(not HAS_LM_EVAL, reason="needs lm-eval (pip install 'innerq-export[eval]')")
COARSE = CacheConfig(key_bits=2, value_bits=2, value_mode="symmetric", key_mode="symmetric", sink=0, recent=0)


@pytest.fixture
def own_tasks(tmp_path):
    """A folder with a generating task `repeat`, and `likely`, which only compares likelihoods."""
    lines = [{"text": "once upon a time there was a house by the sea; " * 5, "next": "x"}] * 2
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, lines)))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "lines.json")}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
    }
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    generating = {"doc_to_target": "{{next}}", "output_type": "generate_until", "metric_list": [metric]}
    generating["generation_kwargs"] = {"max_gen_toks": 24, "until": ["never"]}
    choosing = {"doc_to_target": 0, "output_type": "multiple_choice", "doc_to_choice": ["a", "b"]}
    for name, own in {"repeat": generating, "likely": choosing}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **own}))
    return tmp_path


@pytest.mark.skipif(HAS_LM_EVAL, reason="lm-eval is installed")
def test_without_lm_eval_the_message_names_the_extra(tiny_checkpoint):
    with pytest.raises(EnvironmentMismatchError, match=r"innerq-export\[eval\]"):
        run_tasks(tiny_checkpoint, TaskOptions(("gsm8k",), ()))


@with_lm_eval
def test_a_generating_task_runs_under_every_cache(tiny_checkpoint, own_tasks, monkeypatch):
    from innerq_export.eval.lm_eval_model import QuantisedCacheLM

    texts: dict[object, list] = {}
    real = QuantisedCacheLM._model_generate

    def spied(self, context, max_length, stop, **generation):
        made = real(self, context, max_length, stop, **generation)
        texts.setdefault(self._cache, []).append(made.tolist())
        return made

    monkeypatch.setattr(QuantisedCacheLM, "_model_generate", spied)
    caches = (("balanced", preset("balanced")), ("coarse", COARSE))
    told = run_tasks(tiny_checkpoint, TaskOptions(("repeat",), caches, include=own_tasks, device="cpu"))
    assert set(told["results"]) == {"fp16", "balanced", "coarse"}
    assert told["results"]["balanced"]["repeat"]["exact_match"] == 0.0
    assert "| `coarse` | repeat | exact_match | 0.0000 |" in task_table(told)
    assert set(texts) == {None, preset("balanced"), COARSE}
    assert len(texts[None]) == 2
    assert texts[COARSE] != texts[None], "the quantised cache changed nothing: it was not used"


@with_lm_eval
def test_a_task_that_generates_nothing_is_refused(tiny_checkpoint, own_tasks):
    options = TaskOptions(("likely",), (("balanced", preset("balanced")),), include=own_tasks, device="cpu")
    with pytest.raises(UserError, match="generates nothing"):
        run_tasks(tiny_checkpoint, options)


@with_lm_eval
def test_an_unknown_task_is_named(tiny_checkpoint):
    with pytest.raises(UserError, match="no task 'gsm9k'"):
        run_tasks(tiny_checkpoint, TaskOptions(("gsm9k",), (), device="cpu"))


@with_lm_eval
def test_lm_eval_knows_the_papers_tasks():
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    assert all(task in known for tasks in NAMED.values() for task in tasks)
