"""The plugin's C++ tables say what the op table says."""

import dataclasses
import importlib.util

import pytest

from innerq_export.spec.ops import APPEND, ATTENTION
from tests.plugin.conftest import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_plugin_tables", ROOT / "scripts" / "make_plugin_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_header_is_what_the_op_table_makes(script):
    assert script.HEADER.read_text() == script.formatted(script.header())


@pytest.mark.parametrize("op", [APPEND, ATTENTION], ids=lambda op: op.name)
@pytest.mark.parametrize("change", ["port", "attribute", "shape"])
def test_a_changed_op_makes_another_header(script, op, change):
    first, *rest = op.inputs
    changed = {
        "port": dataclasses.replace(op, inputs=tuple(rest)),
        "attribute": dataclasses.replace(op, attributes=dict(op.attributes) | {"softcap": float}),
        "shape": dataclasses.replace(op, inputs=(dataclasses.replace(first, shape=("B", "S", "D")), *rest)),
    }[change]
    assert script.op_table("kOp", changed) != script.op_table("kOp", op)
