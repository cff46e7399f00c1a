"""A Graph run in ONNX Runtime, and the same checkpoint run in torch."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from innerq_export.artifacts import Graph


def run_onnx(
    graph: Graph, folder: Path, ids_BS: torch.Tensor, positions_BS: torch.Tensor | None = None
) -> torch.Tensor:
    file = folder / "graph.onnx"
    ir.save(graph.model, file, external_data="graph.data")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    positions_BS = positions_of(ids_BS) if positions_BS is None else positions_BS
    (logits,) = session.run(["logits"], {"input_ids": ids_BS.numpy(), "position_ids": positions_BS.numpy()})
    return torch.from_numpy(np.asarray(logits))


def run_torch(folder: Path, dtype: str, ids_BS: torch.Tensor, positions_BS: torch.Tensor | None = None) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    positions_BS = positions_of(ids_BS) if positions_BS is None else positions_BS
    with torch.no_grad():
        return model(ids_BS, attention_mask=torch.ones_like(ids_BS), position_ids=positions_BS).logits


def positions_of(ids_BS: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids_BS.shape[1]).expand(ids_BS.shape).contiguous()


def some_ids(batch: int, length: int, vocab: int = 256) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(batch * length))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())
