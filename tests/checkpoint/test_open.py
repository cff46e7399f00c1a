import subprocess
import sys

import pytest

from innerq_export.checkpoint import hub, open_checkpoint
from innerq_export.errors import CheckpointError, EnvironmentMismatchError
from tests.models import tiny_llama


@pytest.mark.parametrize("source", ["no/such/folder", "lama", "../x", "", "owner/..", "-x/y", "x\0y", "x" * 5000])
def test_what_is_neither_folder_nor_hub_id(source, monkeypatch):
    monkeypatch.setattr(hub, "download", lambda source: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="is no model"):
        open_checkpoint(source)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"got: +a file"):
        open_checkpoint(str(tmp_path / "model.gguf"))


def test_a_hub_id_opens_the_snapshot_through_its_links(tmp_path, monkeypatch):
    blobs = tiny_llama(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)
    asked = {}

    def snapshot_download(source, allow_patterns):
        asked[source] = allow_patterns
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    checkpoint = open_checkpoint("owner/name")
    assert checkpoint.source == "owner/name" and checkpoint.folder == snapshot
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["owner/name"][:4])


def test_without_network_the_message_says_what_to_do():
    script = (
        "from innerq_export.checkpoint import open_checkpoint\n"
        "from innerq_export.errors import EnvironmentMismatchError\n"
        "try:\n    open_checkpoint('owner/name')\n"
        "except EnvironmentMismatchError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert "'owner/name' cannot be downloaded" in result.stdout
    assert "fix:      connect, or download it elsewhere" in result.stdout


@pytest.mark.parametrize(
    ("name", "raised", "message"),
    [
        ("GatedRepoError", EnvironmentMismatchError, "needs permission"),
        ("RepositoryNotFoundError", CheckpointError, "no folder and no hub model is named"),
        ("LocalEntryNotFoundError", EnvironmentMismatchError, "cannot be downloaded"),
    ],
)
def test_hub_errors_are_told_apart(monkeypatch, name, raised, message):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, name)

    def snapshot_download(source, allow_patterns):
        raise kind.__new__(kind, "said by the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(raised, match=rf"'owner/name' {message}|{message} 'owner/name'"):
        open_checkpoint("owner/name")
