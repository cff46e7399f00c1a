"""The card and the stream that a session runs on."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from innerq_export.errors import EnvironmentMismatchError


class CudaStream:
    """A stream of its own on the current card: TensorRT would synchronise on the default one.

    `device` is where tensors go, `handle` is what TensorRT takes. EnvironmentMismatchError without torch with CUDA.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise EnvironmentMismatchError(
                "torch cannot use the card, and the session's memory is torch's",
                expected="torch with CUDA",
                got=f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
                fix="install torch with CUDA: https://pytorch.org/get-started/locally",
            )
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self.device)

    @property
    def handle(self) -> int:
        """The cudaStream_t as a number."""
        return self._stream.cuda_stream

    def scope(self) -> AbstractContextManager[object]:
        """Within it torch allocates and copies on this stream."""
        return torch.cuda.stream(self._stream)
