"""The lower rungs on a card: kernels and plugin in every preset and head size, and faults of the plugin there."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerq_export.artifacts import ModelShape
from innerq_export.parity.ops import KernelOps, PluginOps
from innerq_export.parity.ops.packing import KernelPacking
from innerq_export.parity.ops.rungs import OpSetting, op_rung, packing_rung, plugin_rung
from innerq_export.spec import PRESETS, CacheConfig
from tests.parity.mutations import MUTATIONS
from tests.parity.plugin_side import compile_faults, faulty_plugin

pytestmark = pytest.mark.gpu
GEOMETRIES = [(64, "float16"), (128, "float16"), (128, "bfloat16"), (256, "float16")]


def setting(config: CacheConfig, head_dim: int, dtype: str, seeds: range = range(1)) -> OpSetting:
    shape = ModelShape(layers=1, heads=8, kv_heads=2, head_dim=head_dim, vocab=264, max_positions=8192)
    return OpSetting(config, shape, dtype, seeds)


@pytest.fixture(scope="module")
def kernels() -> KernelOps:
    return KernelOps("cuda")


@pytest.fixture(scope="module")
def plugin_files() -> tuple[Path, Path]:
    """Library and program of the plugin for this card."""
    plugin = PluginOps()
    if plugin.kind != "cuda" or plugin.lacks(CacheConfig(), "float16"):
        pytest.skip("no plugin host for a card (INNERQ_PLUGIN_LIBRARY, INNERQ_PLUGIN_PROGRAM)")
    assert plugin.library and plugin.program
    return plugin.library, plugin.program


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("head_dim", "dtype"), GEOMETRIES)
def test_packing_op_and_plugin(preset: str, head_dim: int, dtype: str, kernels, plugin_files) -> None:
    chosen, plugin = setting(PRESETS[preset], head_dim, dtype), PluginOps()
    rungs = (
        packing_rung(KernelPacking(kernels), chosen),
        op_rung(kernels, chosen),
        plugin_rung(plugin, kernels, chosen),
    )
    outcomes = [rung.run() for rung in rungs]
    plugin.close()
    for outcome in outcomes:
        assert outcome.result.status == "passed", outcome.finding or outcome.result.reason


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_more_seeds_of_a_llama_sized_layer(dtype: str, kernels) -> None:
    outcome = op_rung(kernels, setting(CacheConfig(), 128, dtype, range(3))).run()
    assert outcome.result.status == "passed", outcome.finding or outcome.result.reason


@pytest.mark.parametrize("fault", ["none", *(mutation.name for mutation in MUTATIONS)])
def test_a_fault_of_the_plugin_is_seen_on_the_card(fault: str, kernels, plugin_files, tmp_path) -> None:
    with faulty_plugin(*plugin_files, compile_faults(tmp_path), fault) as plugin:
        outcome = plugin_rung(plugin, kernels, setting(CacheConfig(), 64, "float16")).run()
    assert outcome.result.status == ("passed" if fault == "none" else "failed"), outcome.result.reason
    assert fault == "none" or "writes another" in outcome.finding.what, outcome.finding.text()
