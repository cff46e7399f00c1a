"""The op table: ports, attributes, and that references and generators say what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from innerq_export.errors import ConfigError
from innerq_export.spec import PRESETS, CacheConfig
from innerq_export.spec.ops import (
    APPEND,
    ATTENTION,
    LAYOUTS,
    OPS,
    OpCase,
    attributes_of,
    config_of,
    dimensions,
    resolve,
)

WITH_ZEROS = CacheConfig(key_mode="asymmetric", value_mode="hybrid", value_bits=2)
NUMPY_NAMES = {"T": "float16"}


def names(ports) -> list[str]:
    return [port.name for port in ports]


def test_inputs_in_the_order_that_nodes_use() -> None:
    new = ["key", "value", "past_length", "new_length"]
    cache = ["window", "key_norm", "key_codes", "key_scales", "value_codes", "value_scales"]
    assert names(APPEND.inputs_for(CacheConfig(), "logical")) == [*new, *(f"past_{name}" for name in cache)]
    assert names(ATTENTION.inputs_for(CacheConfig(), "logical"))[:5] == ["query", *new]
    zeros = names(APPEND.outputs_for(WITH_ZEROS, "logical"))
    assert zeros.index("present_key_zeros") == zeros.index("present_key_scales") + 1
    assert zeros[-1] == "present_value_zeros"
    packed = names(APPEND.outputs_for(WITH_ZEROS, "packed"))
    assert packed == ["present_window", "present_key_norm", "present_blocks"]


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [*PRESETS.values(), WITH_ZEROS])
def test_generator_and_reference_keep_to_the_declaration(name: str, layout: str, config: CacheConfig) -> None:
    op, case = OPS[name], OpCase(past=(170, 3), new=(4, 1))
    inputs = resolve(op.generator)(config, layout, case)
    outputs = resolve(op.reference)(config, layout, inputs)
    sizes = dimensions(config, case)
    for ports, tensors in ((op.inputs_for(config, layout), inputs), (op.outputs_for(config, layout), outputs)):
        assert list(tensors) == names(ports)
        for port in ports:
            assert tuple(tensors[port.name].shape) == port.sizes(sizes), port.name
            assert str(tensors[port.name].dtype) == f"torch.{NUMPY_NAMES.get(port.dtype, port.dtype)}", port.name


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_attributes_round_trip(op) -> None:
    values = attributes_of(op, WITH_ZEROS, scale=0.5)
    assert list(values) == list(op.attributes)
    assert all(type(values[name]) is kind for name, kind in op.attributes.items())
    assert config_of(values) == WITH_ZEROS


def test_bad_attributes_are_refused_by_name() -> None:
    good = attributes_of(ATTENTION, CacheConfig())
    with pytest.raises(ConfigError, match=r"'key_bit'(.|\n)*did you mean 'key_bits'"):
        config_of(good | {"key_bit": 3})
    with pytest.raises(ConfigError, match=r"missing(.|\n)*sink"):
        config_of({name: value for name, value in good.items() if name != "sink"})


def test_the_table_loads_without_torch() -> None:
    code = "import innerq_export.spec.ops, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
