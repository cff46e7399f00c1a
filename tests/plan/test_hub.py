"""A model on the hub: config.json and headers only; what it says equals the same model in a folder."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from innerq_export.checkpoint.header import read_header
from innerq_export.errors import CheckpointError
from innerq_export.plan.headers import read_headers
from tests.graph.sparse import sparse_llama


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one model, owner/name, none of which is cached; returns the same model as a folder."""
    folder = sparse_llama(tmp_path / "model")

    def cached(*_, **__):
        raise LocalEntryNotFoundError("not cached")

    def config_only(repo, name):
        assert (repo, name) == ("owner/name", "config.json")
        target = tmp_path / "cache" / name
        target.parent.mkdir(exist_ok=True)
        return str(shutil.copy(folder / name, target))

    def metadata(repo):
        refs = read_header(folder / "model.safetensors").values()
        tensors = {
            ref.name: SimpleNamespace(
                dtype=ref.dtype, shape=list(ref.shape), data_offsets=(ref.offset, ref.offset + ref.nbytes)
            )
            for ref in refs
        }
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config_only)
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", metadata)
    return folder


def test_a_remote_model_is_planned_like_its_folder(hub, plan):
    remote, local = read_headers("owner/name"), read_headers(str(hub))
    assert remote.digest == local.digest
    assert remote.to_download == sum(ref.nbytes for ref in local.tensors)
    there, here = plan("owner/name", backend="onnxruntime"), plan(hub, backend="onnxruntime")
    assert there.phases[0].name == "download"
    assert there.phases[0].disk == remote.to_download
    assert there.phases[1:] == here.phases


def test_a_cached_model_is_read_from_the_cache(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(hub))
    assert read_headers("owner/name").to_download == 0


def test_a_model_that_is_not_on_the_hub(hub, monkeypatch):
    def refuse(*_, **__):
        raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match="no folder and no hub model"):
        read_headers("owner/name")


def test_headers_that_lie_are_refused(hub, monkeypatch):
    lying = SimpleNamespace(dtype="F16", shape=[4, 4], data_offsets=(0, 31))
    files = {"model.safetensors": SimpleNamespace(tensors={"w": lying})}
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda _: SimpleNamespace(files_metadata=files))
    with pytest.raises(CheckpointError, match="'w' is malformed"):
        read_headers("owner/name")


def test_the_config_of_a_remote_model_is_checked(hub):
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"hidden_size": -1}))
    with pytest.raises(CheckpointError, match="hidden_size"):
        read_headers("owner/name")
