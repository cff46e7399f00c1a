import pytest

from innerq_export.checkpoint import open_checkpoint
from innerq_export.graph import export_graph
from tests.models import tiny_llama


@pytest.fixture(scope="session")
def tied_fp16(tmp_path_factory):
    """Checkpoint of a tied fp16 Llama in one file."""
    return open_checkpoint(str(tiny_llama(tmp_path_factory.mktemp("tied") / "model")))


@pytest.fixture(scope="session")
def untied_bf16(tmp_path_factory):
    """Checkpoint of an untied, sharded bf16 Llama with one KV head of dim 128 for four query heads, and biases."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    sizes = {"num_key_value_heads": 1, "head_dim": 128, "attention_bias": True, "tie_word_embeddings": False}
    return open_checkpoint(str(tiny_llama(folder, dtype="bfloat16", shard_size="150KB", **sizes)))


@pytest.fixture(scope="session")
def graph_fp16(tied_fp16):
    return export_graph(tied_fp16, "float16")


@pytest.fixture(scope="session")
def graph_fp32(untied_bf16):
    return export_graph(untied_bf16, "float32")
