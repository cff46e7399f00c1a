"""Engine folder -> text, with ONNX Runtime.

session = OnnxRuntimeSession(Path("engines/llama"))
for event in generate(session, load_tokenizer(session.folder), "Once upon a time"):
    print(event)
"""

from innerq_export.runtime.checks import preflight
from innerq_export.runtime.events import EndEvent, Event, GenerateOptions, TextEvent, Usage
from innerq_export.runtime.generation import generate
from innerq_export.runtime.sampler import Sampler, SamplingOptions
from innerq_export.runtime.session import OnnxRuntimeSession
from innerq_export.runtime.text import load_tokenizer, stop_tokens

__all__ = [
    "EndEvent",
    "Event",
    "GenerateOptions",
    "OnnxRuntimeSession",
    "Sampler",
    "SamplingOptions",
    "TextEvent",
    "Usage",
    "generate",
    "load_tokenizer",
    "preflight",
    "stop_tokens",
]
