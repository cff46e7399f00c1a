"""A tiny Llama as the graph stage exports it, its weights in memory; exported once per type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from innerq_export.artifacts import Graph
from tests.models import tiny_llama


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors are tiny here: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("rewrite") / "llama", dtype="float32", tie_word_embeddings=False)


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Callable[[str], Graph]:
    """Return the function dtype -> graph of the same checkpoint."""
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.graph import export_graph

    @lru_cache
    def export(dtype: str) -> Graph:
        graph = export_graph(open_checkpoint(str(llama_folder)), dtype)
        for value in graph.model.graph.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
        return dataclasses.replace(graph)

    return export
