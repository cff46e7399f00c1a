import hashlib
import re
from pathlib import Path

import pytest

from innerq_export.checkpoint import demo, open_checkpoint
from innerq_export.errors import EnvironmentMismatchError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(cache))


def test_the_demo_model_is_small_grouped_and_says_that_it_is_noise():
    checkpoint = open_checkpoint("llama")
    shape = checkpoint.shape
    assert shape.layers >= 4 and shape.head_dim == 64 and shape.heads > shape.kv_heads and shape.max_positions == 2048
    assert sum(ref.nbytes for ref in checkpoint.tensors.values()) < 8 << 20
    assert checkpoint.notes == ("seeded random weights: the text is noise",)


def test_it_is_the_same_everywhere_and_written_once(tmp_path):
    written = demo.demo_folder()
    inode = (written / "model.safetensors").stat().st_ino
    demo.write_demo(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256((written / file.name).read_bytes()).digest()
    assert (demo.demo_folder() / "model.safetensors").stat().st_ino == inode
    assert [entry.name for entry in written.parent.iterdir()] == [demo.VERSION]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))

    def disk_full(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "write_demo", disk_full)
    with pytest.raises(EnvironmentMismatchError, match=r"No space left on device[\s\S]*INNERQ_EXPORT_CACHE"):
        demo.demo_folder()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_keeps_the_first_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))
    target = tmp_path / demo.VERSION

    def another_process_finishes_first(folder):
        target.mkdir()
        (target / "config.json").write_text("theirs")
        (folder / "config.json").write_text("ours")

    monkeypatch.setattr(demo, "write_demo", another_process_finishes_first)
    assert (demo.demo_folder() / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("platform", "variable", "value", "tail"),
    [
        ("linux", "XDG_CACHE_HOME", "/x", "/x/innerq-export"),
        ("win32", "LOCALAPPDATA", "/y", "/y/innerq-export"),
        ("darwin", "HOME", "/z", "/z/Library/Caches/innerq-export"),
    ],
)
def test_the_cache_folder_is_the_platforms(monkeypatch, platform, variable, value, tail):
    monkeypatch.delenv("INNERQ_EXPORT_CACHE")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(demo.sys, "platform", platform)
    assert demo.cache_root().as_posix() == tail


def test_every_byte_is_its_own_token():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.demo_folder())
    text = "plain, \n\t spaces  ä€😀 \x00\x7f"
    ids = tokenizer(text)["input_ids"]
    assert ids == [256, *text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == demo.CONFIG["vocab_size"]
    assert [tokenizer.convert_tokens_to_ids(name) for name in demo.SPECIALS[:3]] == [256, 257, 258]


def test_the_held_out_text_is_what_was_fetched():
    expected = re.search(r'"heldout.txt": "(\w+)"', (ROOT / "scripts" / "fetch_text.py").read_text())[1]
    assert hashlib.sha256(demo.held_out_text()).hexdigest() == expected


def test_attention_is_peaked_but_not_on_one_token():
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(demo.demo_folder(), dtype=torch.float32, attn_implementation="eager")
    ids = torch.randint(0, 256, (1, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    for layer_BHSS in attentions:
        last = layer_BHSS[0, :, -32:]
        entropy = -(last * last.clamp(min=1e-12).log()).sum(-1).mean()
        assert 1.0 < entropy < 4.5
