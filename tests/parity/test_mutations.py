"""Every fault is put to every rung alone: docs/parity.md tables which rungs see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerq_export.integrations.library import load
from innerq_export.parity.ops import KernelOps
from innerq_export.parity.ops.rungs import plugin_rung
from tests.parity.matrix import CAUGHT, COLUMNS, SETTING, UNSEEN, Matrix
from tests.parity.mutations import MUTATIONS, Mutation
from tests.parity.plugin_side import compile_faults, faulty_plugin
from tests.plugin.conftest import Built, build


@pytest.fixture(scope="module")
def matrix(torch_model, tiny_checkpoint) -> Matrix:
    return Matrix(torch_model, tiny_checkpoint.folder)


def test_a_sound_engine_is_found_wrong_by_no_rung(matrix) -> None:
    assert set(matrix.row(Mutation("none")).values()) == {UNSEEN}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_table_of_the_docs(mutation: Mutation, matrix) -> None:
    tabled = _table()[mutation.name]
    assert {name: cell for name, cell in tabled.items() if name not in ("first", "plugin")} == matrix.row(mutation)
    assert tabled["first"] == "op" and tabled["op"] == CAUGHT, "the lowest rung that runs the op sees every fault of it"


@pytest.fixture(scope="module")
def plugin_host(tmp_path_factory) -> tuple[Built, Path, KernelOps]:
    """The plugin's host build and its program, the faults to preload, and the same kernels by their C ABI."""
    built = build(tmp_path_factory, "plugin11", 11)
    kernels = KernelOps("host")
    kernels.library = load("host", built.library.with_name("libinnerq_host.so"))
    return built, compile_faults(tmp_path_factory.mktemp("faults")), kernels


@pytest.mark.parametrize("fault", ["none", *(mutation.name for mutation in MUTATIONS)])
def test_the_plugins_column_with_the_fault_in_the_plugin(fault: str, plugin_host) -> None:
    built, faults, kernels = plugin_host
    with faulty_plugin(built.library, built.program, faults, fault) as plugin:
        finding = plugin_rung(plugin, kernels, SETTING).run().finding
    assert (CAUGHT if finding else UNSEEN) == (_table()[fault]["plugin"] if fault != "none" else UNSEEN)
    if finding:
        assert "writes another" in finding.what and finding.kv_head is not None and finding.expected != finding.got


def _table() -> dict[str, dict[str, str]]:
    """Return the wide table of the docs: fault -> column -> cell."""
    docs = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in docs.splitlines() if line[:1] == "|"]
    wide = [row for row in rows if len(row) == 2 + len(COLUMNS)]
    assert tuple(wide[0][2:]) == COLUMNS
    return {row[0]: dict(zip(("first", *COLUMNS), row[1:], strict=True)) for row in wide[2:]}
