"""Decoders as torch's two exporters write them, with and without a cache of their own, opened and rewritten."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from innerq_export.graph import open_graph
from innerq_export.rewrite import rewrite
from innerq_export.spec import CacheConfig
from tests.rewrite.network_run import Network

LAYERS, CACHE = 2, [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]


class Decoder(torch.nn.Module):
    """A Hugging Face model called as exporting tools call it; `past` are keys and values, layer by layer."""

    def __init__(self, folder: Path, attention: str) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past else None,
            use_cache=bool(past),
        )
        if not past:
            return output.logits
        return output.logits, *(part for layer in cache.layers for part in (layer.keys, layer.values))


class CountsItself(Decoder):
    """The same without position_ids: the model counts its tokens."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def export_by_script(folder: Path, file: Path) -> None:
    """torch.onnx's older exporter with past inputs: what optimum calls."""
    decoder, past = Decoder(folder, "eager"), [torch.randn(2, 2, 5, 64) for _ in CACHE]
    ids = torch.ones(2, 3, dtype=torch.int64)
    inputs = (ids, torch.ones(2, 8, dtype=torch.int64), ids.cumsum(1) + 4, *past)
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{part}" for part in CACHE)]
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "position_ids": {0: "batch", 1: "sequence"}}
    axes |= {"attention_mask": {0: "batch", 1: "total"}, "logits": {0: "batch", 1: "sequence"}}
    axes |= {name: {0: "batch", 2: "past"} for name in names[3:]}
    outputs = ["logits", *(f"present.{part}" for part in CACHE)]
    torch.onnx.export(
        decoder,
        inputs,
        file,
        dynamo=False,
        opset_version=18,
        input_names=names,
        output_names=outputs,
        dynamic_axes=axes,
    )


def export_by_dynamo(folder: Path, file: Path) -> None:
    """torch.onnx's present exporter, no cache, no position_ids, masks for sdpa."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    ones = torch.ones(2, 9, dtype=torch.int64)
    program = torch.onnx.export(
        CountsItself(folder, "sdpa"),
        (ones, ones.clone()),
        dynamo=True,
        opset_version=23,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=(sizes, sizes),
        verbose=False,
    )
    assert program is not None
    program.save(file, external_data=True)


@pytest.mark.parametrize("export", [export_by_script, export_by_dynamo], ids=lambda export: export.__name__)
def test_exported_decoders_compute_with_the_new_cache_what_torch_computes(
    export: Any, llama_folder: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(llama_folder, tmp_path / "decoder.onnx")
    shutil.copy(llama_folder / "config.json", tmp_path)
    model, report = rewrite(open_graph(tmp_path / "decoder.onnx"), CacheConfig(), logits="all")
    assert report.counts["InnerQLayers"] == report.counts["SharedHeads"] == LAYERS
    assert "attention_mask" in report.dropped
    ids = np.random.default_rng(0).integers(0, 256, (2, 14))
    with torch.no_grad():
        expected = Decoder(llama_folder, "eager").model(torch.from_numpy(ids)).logits.numpy()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    network = Network(model, 2)
    parts = [network.step(ids[:, start:end], [end - start] * 2)["logits"] for start, end in ((0, 9), (9, 10), (10, 14))]
    assert np.linalg.norm(np.concatenate(parts, 1) - expected) < 1e-5 * np.linalg.norm(expected)
