"""A Triton model repository for a TensorRT engine folder: sequence batching, every cache tensor an implicit state.

Triton keeps the caches of each sequence between requests; a client sends tokens, positions and lengths. Its TensorRT
backend copies states into and out of its own buffers at every request (read in its source, July 2026), so serving
costs two more passes over the cache than the C++ example does; the packed cache keeps them small.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from innerq_export.engine.folder import load_engine
from innerq_export.engine.manifest import Manifest
from innerq_export.errors import ConfigError, EnvironmentMismatchError
from innerq_export.integrations.pbtxt import Enum, to_pbtxt
from innerq_export.spec.ops import ACTIVATION, APPEND, OpCase, Port, dimensions

BACKEND, PLAN, LIBRARY, ONES = "tensorrt", "model.engine", "libinnerq_trt.so", "key_norm_ones"
TYPES = {"float16": Enum("TYPE_FP16"), "bfloat16": Enum("TYPE_BF16"), "int32": Enum("TYPE_INT32")}
FP16_ONE = b"\x00\x3c"
IDLE_MICROSECONDS = 600_000_000
MAX_SEQUENCES = 64


def write_repository(engine: Path, repository: Path, name: str | None = None, max_batch: int | None = None) -> Path:
    """Write model `name` (default: the engine folder's name) into `repository` and return its folder.

    The engine is hard-linked where the disk allows it. Raises EnvironmentMismatchError for an engine without a
    TensorRT plan, ConfigError for a name or batch that cannot be, or a model that is there already.
    """
    manifest = Manifest.from_dict(load_engine(engine).manifest, engine)
    _require_plan(manifest, engine)
    name, max_batch = name or engine.resolve().name, max_batch or manifest.max_batch
    _check(name, max_batch, manifest)
    target = repository / name
    if target.exists():
        raise ConfigError(f"{target} exists", expected="a new model", got=name, fix="remove it, or choose --name")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=repository) as stage:
        rows = _logits_rows(engine / "model.onnx")
        _fill(Path(stage) / name, engine, config_of(manifest, name, max_batch, rows), manifest)
        os.rename(Path(stage) / name, target)
    (repository / "start.sh").write_text(_start_script(name))
    (repository / "start.sh").chmod(0o755)
    return target


def config_of(manifest: Manifest, name: str, max_batch: int, logits_rows: int = 1) -> dict[str, Any]:
    """Return config.pbtxt as a message: inputs of a client, logits, and a state per cache tensor.

    `logits_rows`: 1 for the last token's logits, -1 for those of all tokens.
    """
    token_rows = [_tensor(tensor, "TYPE_INT64", [-1]) for tensor in ("input_ids", "position_ids")]
    lengths = [
        _tensor(tensor, "TYPE_INT32", [1]) | {"reshape": {"shape": []}} for tensor in ("past_length", "new_length")
    ]
    return {
        "name": name,
        "platform": "tensorrt_plan",
        "max_batch_size": max_batch,
        "input": token_rows + lengths,
        "output": [_tensor("logits", TYPES[manifest.dtype], [logits_rows, manifest.model.vocab])],
        "sequence_batching": {
            "max_sequence_idle_microseconds": IDLE_MICROSECONDS,
            "oldest": {"max_candidate_sequences": MAX_SEQUENCES},
            "state": states_of(manifest),
        },
        "instance_group": [{"count": 1, "kind": Enum("KIND_GPU"), "profile": ["0", "1"]}],
    }


def states_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return one state per layer and cache tensor, in the order of the op table; shapes without the batch."""
    shape, cache = manifest.model, manifest.cache
    case = OpCase((0,), (1,), shape.heads, shape.kv_heads, shape.head_dim, capacity_of(manifest))
    sizes = dimensions(cache, case)
    ports = [port for port in APPEND.inputs_for(cache, "packed") if port.name.startswith("past_")]
    states = [port for port in ports if port.name != "past_length"]
    return [_state(port, layer, sizes, manifest.dtype) for layer in range(shape.layers) for port in states]


def capacity_of(manifest: Manifest) -> int:
    """Return NB, the most blocks a sequence may have in any profile of the plan."""
    return max(profile["blocks"]["max"] for profile in manifest.backends[BACKEND]["profiles"])


def _state(port: Port, layer: int, sizes: dict[str, int], activation: str) -> dict[str, Any]:
    dims = list(port.sizes(sizes))[1:]
    kind = TYPES[activation if port.dtype == ACTIVATION else port.dtype]
    start: dict[str, Any] = {"zero_data": True} if port.name != "past_key_norm" else {"data_file": ONES}
    return {
        "input_name": f"{port.name}_{layer}",
        "output_name": f"{port.name.replace('past_', 'present_', 1)}_{layer}",
        "data_type": kind,
        "dims": dims,
        "use_same_buffer_for_input_output": True,
        "initial_state": {"name": f"fresh {port.name}", "data_type": kind, "dims": dims, **start},
    }


def _tensor(name: str, kind: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Enum(kind), "dims": dims}


def _logits_rows(model: Path) -> int:
    """Return S of the output `logits` [B, S, V]: 1, or -1 where it varies."""
    import onnx

    outputs = onnx.load(model, load_external_data=False).graph.output
    shape = next(value for value in outputs if value.name == "logits").type.tensor_type.shape
    return shape.dim[1].dim_value or -1


def _fill(folder: Path, engine: Path, config: dict[str, Any], manifest: Manifest) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "initial_state").mkdir()
    (folder / "config.pbtxt").write_text(to_pbtxt(config))
    _link(engine / PLAN, folder / "1" / "model.plan")
    shutil.copy2(engine / LIBRARY, folder / LIBRARY)
    ones = FP16_ONE * (manifest.model.kv_heads * manifest.model.head_dim)
    (folder / "initial_state" / ONES).write_bytes(ones)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _require_plan(manifest: Manifest, engine: Path) -> None:
    if BACKEND in manifest.backends and (engine / PLAN).is_file() and (engine / LIBRARY).is_file():
        return
    raise EnvironmentMismatchError(
        f"{engine} has no TensorRT plan that Triton could serve",
        expected=f"{PLAN} and {LIBRARY} of backend '{BACKEND}'",
        got=f"backends {', '.join(manifest.backends)}",
        fix=f"innerq-export build --model {manifest.source} --backend {BACKEND} --output {engine} --overwrite",
    )


def _check(name: str, max_batch: int, manifest: Manifest) -> None:
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise ConfigError("model name", expected="letters, digits, '-', '_' and '.'", got=name, fix="choose --name")
    if not 1 <= max_batch <= manifest.max_batch:
        raise ConfigError(
            "--max-batch",
            expected=f"1 to {manifest.max_batch}, the engine's profiles",
            got=max_batch,
            fix="leave it out",
        )


def _start_script(name: str) -> str:
    return f"""#!/usr/bin/env bash
# Starts Triton on this repository with the plugin that model '{name}' needs.
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
exec tritonserver --model-repository="$here" --backend-config=tensorrt,plugins="$here/{name}/{LIBRARY}" "$@"
"""
