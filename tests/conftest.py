"""What several folders of tests share: one small decoder, exported once per run; and what was left out is said once."""

import os
from collections import Counter

import pytest

from tests.models import tiny_llama

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads: test processes share the cores already


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The demo model and the history of builds of these tests, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A checkpoint of tests.models.TINY: 2 layers, 4/2 heads of 64, context 512, byte-level tokenizer."""
    from innerq_export.checkpoint import open_checkpoint

    return open_checkpoint(str(tiny_llama(tmp_path_factory.mktemp("tiny") / "checkpoint")))


@pytest.fixture(scope="session")
def tiny_graph(tiny_checkpoint):
    """Its export in fp16; rewrite works on a copy, so tests may share it."""
    from innerq_export.graph import export_graph

    return export_graph(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint, tiny_graph, tmp_path_factory):
    """Its engine folder for ONNX Runtime, sealed as ready though parity was not run. Copy it before changing it."""
    from tests.engine.real import engine_of

    return engine_of(tiny_checkpoint, tiny_graph, tmp_path_factory.mktemp("tiny") / "engine")


def pytest_collection_modifyitems(items):
    """Skip what is marked gpu where there is no card."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA card"))


def pytest_terminal_summary(terminalreporter):
    """Write a line for every reason to skip, with the number of tests."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests {reason[0].lower()}{reason[1:]}")
