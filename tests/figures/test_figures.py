from __future__ import annotations

from xml.etree import ElementTree

import pytest

from innerq_export.figures.latency import latency_figures
from innerq_export.figures.style import DARK, LIGHT, colour, save_both, size_label


def report(*, growth=True):
    def row(kernel, precision, tokens, us):
        section = "growth" if growth else "table"
        numbers = {"tokens": tokens, "ev_us": us, "bytes_moved": tokens * 30000, "copy_percent": 80.0}
        return {"section": section, "kernel": kernel, "precision": precision, **numbers}

    peers = [("torch SDPA cuDNN fp16", "fp16"), ("FlashInfer XQA fp8", "fp8")]
    rows = [
        row(*who, tokens, tokens / 200) for who in [("innerq", "balanced"), *peers] for tokens in (8192, 4096, 1 << 20)
    ]
    return {"rows": rows, "copy_tb_s": 4.2, "environment": {"device": "a card", "date": "2026-11-22"}}


def texts(path):
    return [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]


def test_light_and_dark_with_every_series_and_the_roofline(tmp_path):
    paths = latency_figures(report(), tmp_path)
    assert [path.name for path in paths] == [
        "latency-light.svg",
        "latency-dark.svg",
        "roofline-light.svg",
        "roofline-dark.svg",
    ]
    words = texts(paths[0])
    for word in ("innerq balanced", "torch SDPA cuDNN fp16", "FlashInfer XQA fp8", "4K", "1M"):
        assert word in words
    assert any("roofline, our bytes at 4.20 TB/s" in word for word in words)
    assert any("a card, 2026-11-22" in word for word in words)
    assert LIGHT.paper in paths[0].read_text()
    assert DARK.paper in paths[1].read_text()


def test_equal_data_give_equal_files(tmp_path):
    first = [path.read_bytes() for path in latency_figures(report(), tmp_path / "a")]
    again = [path.read_bytes() for path in latency_figures(report(), tmp_path / "b")]
    assert first == again


def test_without_a_growing_series_there_is_nothing_to_draw(tmp_path):
    assert latency_figures(report(growth=False), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_the_users_settings_alone(tmp_path):
    import matplotlib

    before = matplotlib.rcParams["text.color"]
    save_both(tmp_path, "empty", lambda axes, theme: None)
    assert matplotlib.rcParams["text.color"] == before


def test_colours_differ_by_theme_and_unknown_series_are_refused():
    assert colour("ours", LIGHT) != colour("ours", DARK)
    with pytest.raises(KeyError):
        colour("theirs", LIGHT)


@pytest.mark.parametrize(
    ("count", "label"), [(4096, "4K"), (1 << 20, "1M"), (3000, "3000"), (1536, "1536"), (32, "32")]
)
def test_size_labels(count, label):
    assert size_label(count) == label
