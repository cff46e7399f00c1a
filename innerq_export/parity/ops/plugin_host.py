"""Talks to the plugin host program (tests/plugin/driver in a checkout), which drives the plugin as TensorRT does."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INT32, FLOAT32, CHAR, INT64 = 5, 1, 6, 10
"""Numbers of nvinfer1::PluginFieldType."""


class HostDiedError(AssertionError):
    """The plugin brought the process down: the one thing it must never do."""


class PluginHost:
    """One host process. `call` sends a command and returns its answer; a crash raises HostDiedError."""

    def __init__(self, program: Path):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([str(program)], text=True, bufsize=1, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._stdin, self._stdout, self._stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def call(self, *words: object) -> dict[str, Any]:
        """Send one command and return its answer, a JSON object."""
        line = " ".join(str(word) for word in words)
        try:
            self._stdin.write(line + "\n")
            answer = self._stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise HostDiedError(f"exit {self.process.wait()} after: {line[:500]}\n{self._stderr.read()}")
        return json.loads(answer)

    def ok(self, *words: object) -> dict[str, Any]:
        """Run a command that must not fail."""
        answer = self.call(*words)
        assert not answer.get("status") and "failed" not in answer, (words[0], answer)
        return answer

    def refused(self, *words: object) -> str:
        """Run a command that must fail with exactly one logged error, and return that message."""
        answer = self.call(*words)
        errors = [line for line in answer["log"] if line.startswith("error: ")]
        assert answer.get("status") == 1 and len(errors) == 1, (words[0], answer)
        return errors[0]

    def create(self, name: str, op: str, attributes: Mapping[str, Any], phase: str = "build") -> dict[str, Any]:
        """Make a plugin `name` of this op with these fields."""
        return self.call("create", name, op, phase, *fields(attributes))

    def close(self) -> int:
        """End the program and return its exit code."""
        self._stdin.close()
        code = self.process.wait(timeout=30)
        self._stdout.close()
        self._stderr.close()
        return code


def fields(attributes: Mapping[str, Any]) -> list[object]:
    """Return the words of good plugin fields, as TensorRT's ONNX parser makes them."""
    words: list[object] = [len(attributes)]
    for name, value in attributes.items():
        words += [name, *field(value)]
    return words


def field(value: Any) -> list[object]:
    """Return the words of one field: text, float or int."""
    if isinstance(value, str):
        return [CHAR, len(value), value.encode().hex()]
    if isinstance(value, float):
        return [FLOAT32, 1, struct.pack("<f", value).hex()]
    return [INT32, 1, struct.pack("<i", value).hex()]


def dims(shape: Sequence[int]) -> list[object]:
    """Return the words of a shape: rank, sizes."""
    return [len(shape), *shape]


def ranges(tensors: Sequence[tuple[str, Sequence[int], Sequence[int], Sequence[int]]], inputs: int) -> list[object]:
    """Return the words of tensors with (type, min, opt, max)."""
    words: list[object] = [inputs, len(tensors) - inputs]
    for kind, *bounds in tensors:
        words.append(kind)
        for bound in bounds:
            words += dims(bound)
    return words


def tensors(entries: Sequence[tuple[str, str, Sequence[int]]], inputs: int) -> list[object]:
    """Return the words of tensors with (buffer, type, shape)."""
    words: list[object] = [inputs, len(entries) - inputs]
    for buffer, kind, shape in entries:
        words += [buffer, kind, *dims(shape)]
    return words
