"""Engine folder -> text, with ONNX Runtime, TensorRT, TensorRT-RTX or torch.

session = open_session(Path("engines/llama"))
for event in generate(session, load_tokenizer(session.folder), "Once upon a time"):
    print(event)
"""

from innerq_export.runtime.base import Session
from innerq_export.runtime.checks import preflight
from innerq_export.runtime.events import EndEvent, Event, GenerateOptions, TextEvent, Usage
from innerq_export.runtime.generation import generate
from innerq_export.runtime.open import RUN_BACKENDS, choose_backend, open_session
from innerq_export.runtime.sampler import Sampler, SamplingOptions
from innerq_export.runtime.session import OnnxRuntimeSession
from innerq_export.runtime.text import load_tokenizer, stop_tokens
from innerq_export.runtime.torch_options import TorchOptions

__all__ = [
    "RUN_BACKENDS",
    "EndEvent",
    "Event",
    "GenerateOptions",
    "OnnxRuntimeSession",
    "Sampler",
    "SamplingOptions",
    "Session",
    "TextEvent",
    "TorchOptions",
    "Usage",
    "choose_backend",
    "generate",
    "load_tokenizer",
    "open_session",
    "preflight",
    "stop_tokens",
]
