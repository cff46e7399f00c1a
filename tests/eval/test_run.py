"""One short run on the tiny model: the figures mean what they say, and reach JSON, Markdown, SVG and the terminal."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner

from innerq_export.errors import ConfigError, UserError
from innerq_export.eval import run
from innerq_export.eval.measure import text_figures
from innerq_export.eval.model import Decoded
from innerq_export.eval.plans import Sizes, full_precision, plans_of
from innerq_export.eval.report import Spread, markdown, write
from innerq_export.eval.run import Options, evaluate
from innerq_export.figures.fidelity import fidelity_figures, pareto
from innerq_export.spec import preset


@pytest.fixture(scope="module")
def rows(report):
    return {row["name"]: row for row in report.to_dict()["rows"]}


def test_the_full_precision_cache_is_the_zero_of_every_scale(rows):
    full = rows["fp16"]
    assert full["kl_mean"]["mean"] == full["kl_p99"]["mean"] == full["perplexity_percent"]["mean"] == 0
    assert full["top1"]["mean"] == 1
    assert full["bits"] == 16


def test_more_bits_cost_less(rows):
    kl = {name: row["kl_mean"]["mean"] for name, row in rows.items()}
    assert 0 < kl["int8-token"] < kl["quality"] < kl["balanced"] < kl["compact"] < kl["small"]
    assert kl["balanced"] < kl["base"]
    assert kl["kivi-4"] < kl["kivi-2"]
    assert rows["quality"]["top1"]["mean"] > rows["small"]["top1"]["mean"]
    assert min(rows["quality"]["attention_db"]) > min(rows["compact"]["attention_db"]) > 0


def test_every_row_has_its_seeds_and_needles(rows):
    for name, row in rows.items():
        assert len(row["kl_mean"]["seeds"]) == 2
        assert len(row["attention_db"]) == (0 if name == "fp16" else 2)
        assert [cell["depth"] for cell in row["recall_cells"]] == [0.0, 1.0]


def test_sensitivity_has_every_part_and_the_budget_holds(report, rows):
    assert len(report.sensitivity) == 2 * 2 * 3
    assert rows["auto 3.25"]["bits"] <= 3.25
    assert report.allocations["auto 3.25"].predicted_kl > 0


def test_kl_perplexity_and_top1_by_hand(decoder):
    """Uniform against (1/2, 1/4, 1/4): KL = ln(2 * 4 * 4 / 27) / 3; the likelihood of token 0 under the second."""

    class Fixed:
        layers, device = 1, torch.device("cpu")

        def read(self, ids):
            return None

        def decode(self, prompt, ids_BN, schemes, measure=False):
            wanted = torch.tensor([1.0, 1.0, 1.0]) if not any(schemes) else torch.tensor([2.0, 1.0, 1.0])
            return Decoded(wanted.log().expand(*ids_BN.shape, 3), [])

    sizes = Sizes(1, 64)
    plans = [full_precision(sizes), *plans_of(["presets"], sizes)[:1]]
    (_, full), (_, got) = text_figures(Fixed(), plans, torch.zeros(2, 9, dtype=torch.int64), 4, lambda name: None)
    assert full.kl_mean == pytest.approx(0, abs=1e-12)
    assert full.perplexity == pytest.approx(3)
    assert got.kl_mean == pytest.approx(torch.tensor(32 / 27).log().item() / 3, rel=1e-5)
    assert got.kl_p99 == pytest.approx(got.kl_mean)
    assert got.perplexity == pytest.approx(2)
    assert got.top1 == 1


def test_equal_seeds_give_equal_figures(tiny_checkpoint, report):
    options = Options(groups=("presets",), tokens=256, prompt=128, sequences=1, seeds=(1,), device="cpu")
    again = evaluate(tiny_checkpoint, options)
    assert again.rows["balanced"].text[0].kl_mean == pytest.approx(report.rows["balanced"].text[1].kl_mean, rel=1e-6)


def test_spread():
    assert Spread.of([1.0, 3.0]) == Spread(2.0, 2**0.5, (1.0, 3.0))
    assert Spread.of([5.0]).sd == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 4096}, "longer than the model's context"),
        ({"tokens": 2}, "at least 3"),
        ({"prompt": 511}, "--prompt"),
        ({"budgets": (3.25, float("nan"))}, "budget of nan"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_checkpoint, changes, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(tiny_checkpoint, Options(device="cpu", **({"tokens": 512} | changes)))


def test_what_does_not_fit_is_refused_before_anything_is_measured(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(run, "Decoder", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match="budget"):
        evaluate(tiny_checkpoint, Options(device="cpu", budgets=(9.0,)))


def test_a_text_that_is_too_short_is_called_so(tiny_checkpoint, tmp_path):
    (tmp_path / "short.txt").write_text("a few words")
    options = Options(device="cpu", tokens=64, text=tmp_path / "short.txt", needle_lengths=(64,))
    with pytest.raises(UserError, match=r"'short\.txt' is too short"):
        evaluate(tiny_checkpoint, options)


def test_windows_that_fit_into_the_full_precision_window_give_json_and_say_equal(tiny_checkpoint):
    options = Options(
        device="cpu",
        groups=(),
        extra=(("mine", preset("balanced")),),
        tokens=40,
        sequences=1,
        seeds=(0,),
        needle_lengths=(64,),
    )
    told = json.loads(json.dumps(evaluate(tiny_checkpoint, options).to_dict(), allow_nan=False))
    assert told["rows"][1]["attention_db"] == [None, None]
    assert "| equal |" in markdown(told)


def test_files_and_figures(report, tmp_path):
    json_file, markdown_file = write(report.to_dict(), tmp_path)
    told = json.loads(json_file.read_text())
    assert told["schema"] == "innerq-export/fidelity/1"
    assert told["settings"]["seeds"] == [0, 1]
    assert markdown_file.read_text() == markdown(told)
    assert "| `balanced` | 3.50 |" in markdown(told)
    assert "`auto 3.25`, key / value bits from layer 0 on: " in markdown(told)
    assert "| layer | keys, 2 bits | keys, 3 bits | keys, 4 bits | values, 2 bits" in markdown(told)
    paths = fidelity_figures(told, tmp_path)
    stems = [path.name.rsplit("-", 1)[0] for path in paths]
    assert stems == ["fidelity"] * 2 + ["ablation"] * 2 + ["layers"] * 2 + ["recall"] * 2
    for path, words in zip(paths[::2], ("hadamard-3", "key_norm none", "keys, 2 bits", "kivi-2"), strict=True):
        texts = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]
        assert any(words in text for text in texts if text), path


def test_the_front_holds_what_nobody_beats():
    def row(bits, kl):
        return {"group": "g", "bits": bits, "kl_mean": {"mean": kl}}

    rows = [row(3, 1.0), row(4, 2.0), row(4, 0.5), row(5, 0.5), row(8, 0.1)]
    assert [(one["bits"], one["kl_mean"]["mean"]) for one in pareto(rows, ["g"])] == [(3, 1.0), (4, 0.5), (8, 0.1)]


def test_the_command_line(tiny_checkpoint, tmp_path):
    from innerq_export.cli.eval import command

    short = ["--tokens", "256", "--sequences", "1", "--seeds", "1", "--needles", "1", "--needle-lengths", "200"]
    own = ["--schemes", "none", "--preset", "quality", "--cache", "sink=0", "--device", "cpu"]
    arguments = [str(tiny_checkpoint.folder), *short, *own, "--format", "json", "-o", str(tmp_path)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert [row["name"] for row in told["rows"]] == ["fp16", "quality sink=0"]
    assert "sink 0" in told["rows"][1]["what"]
    assert len(told["rows"][1]["recall_cells"]) == 5
    again = ["--from", str(tmp_path / "fidelity.json"), "-o", str(tmp_path / "again")]
    assert "quality sink=0" in CliRunner().invoke(command, again, catch_exceptions=False).stdout
    for name in ("fidelity.md", "fidelity.json", "fidelity-light.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "other"}'])
def test_a_file_that_is_no_report_is_refused(content, tmp_path):
    from innerq_export.cli.eval import command

    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ConfigError, match=r"other\.json"):
        CliRunner().invoke(command, ["--from", str(tmp_path / "other.json")], catch_exceptions=False)


def test_groups_of_the_command_line_are_those_of_the_plans():
    from innerq_export.cli import eval as command_line
    from innerq_export.eval import plans

    assert command_line._GROUPS == plans.GROUPS == tuple(plans._GROUPS)


def test_what_the_command_line_means():
    from innerq_export.cli.eval import _settings

    plain = {"schemes": ("presets",), "ablation": False, "presets": (), "fields": (), "budget": 3.0, "seeds": 2}
    plain |= {"tokens": None, "prompt": None, "needle_lengths": (), "sequences": 1, "needles": 1, "text": None}
    plain["device"] = "cpu"
    told = _settings(8192, **plain)
    assert (told["groups"], told["extra"], told["budgets"], told["seeds"]) == (("presets",), (), (), (0, 1))
    assert told["needle_lengths"] == (512, 1024, 2048)
    assert _settings(8192, **plain | {"fields": ("sink=0",)})["extra"][0][0] == "balanced sink=0"
    assert _settings(8192, **plain | {"presets": ("auto", "base")})["budgets"] == (3.0,)
    assert [name for name, _ in _settings(8192, **plain | {"presets": ("auto", "base")})["extra"]] == ["base (yours)"]
    everything = _settings(8192, **plain | {"ablation": True})
    assert everything["sensitivity"]
    assert "scales" in everything["groups"]
