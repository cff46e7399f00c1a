"""The Hugging Face model of a large checkpoint: weights stay in their files, a module's at a time is in memory."""

from __future__ import annotations

import torch

from innerq_export.artifacts import Checkpoint
from innerq_export.graph.bind import find_tensors
from innerq_export.graph.skeleton import build_skeleton, parameter_aliases
from innerq_export.graph.streamed import stream_weights
from innerq_export.parity.torch_model import NAME, TorchModel


class StreamedTorchModel(TorchModel):
    """Says what `TorchModel` says, in the memory of its largest module in fp32; reads all weights anew in every call.

    Raises CheckpointError for tensors that are missing or cut short.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: str):
        model = build_skeleton(checkpoint.config, torch.float32, NAME)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tensors = find_tensors(checkpoint, parameter_aliases(model), shapes)
        stream_weights(model, tensors, getattr(torch, dtype))
        self._model, self._key_norm = model, checkpoint.key_norm
