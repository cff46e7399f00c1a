"""bench decode on the CPU: the numbers mean nothing there, the work and the report are the same."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from innerq_export.bench import decode_run
from innerq_export.bench.decode_caches import PlainCache, Room, ours, plain
from innerq_export.bench.decode_model import SMALL, random_model
from innerq_export.bench.decode_report import BARS, OURS, DecodeReport, Fit, Point, markdown
from innerq_export.bench.decode_run import DecodeOptions, run
from innerq_export.bench.decode_step import Step, kind_of
from innerq_export.cli.bench import command
from innerq_export.errors import ConfigError
from innerq_export.spec import blocks_of, preset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return random_model(SMALL, torch.float16, CPU, compiled=False)


@pytest.fixture(scope="module")
def report(host_library):
    return run(DecodeOptions("small", compiled=False, device="cpu", library=host_library.path, command="a line"))


def test_every_cache_at_every_point(report):
    assert [(point.cache, point.batch, point.tokens) for point in report.points] == [
        (name, batch, 256) for batch in (1, 2) for name in (OURS, "SDPA fp16")
    ]
    assert all(point.ms > 0 and point.tokens_per_second > 0 for point in report.points)
    assert report.points[0].cache_bytes < report.points[1].cache_bytes * 3
    assert report.refused == []


def test_json_and_back(report):
    told = json.loads(json.dumps(report.to_dict()))
    assert told["schema"] == "innerq-bench-decode/1"
    assert DecodeReport.from_dict(told) == report


def test_a_step_moves_on_by_its_own_greedy_token(model, host_library):
    config, (network, shape) = preset("balanced"), model
    room = Room(shape, 2, 200, torch.float16, CPU)
    cache = ours(config, host_library)(room)
    step = Step(network, cache, advance=True)
    with torch.no_grad():
        for count in range(3):
            before = step._ids_B1.clone()
            step()
            assert cache.past_length_B.tolist() == [200 + count] * 2
    expected = network(input_ids=before, position_ids=torch.full((2, 1), 201), use_cache=False).logits[:, -1]
    assert torch.equal(step._ids_B1[:, 0], expected.argmax(-1))
    assert blocks_of(config, 200) > 0
    assert not cache.overflowed


def test_the_plain_cache_is_attention_over_its_rows(model):
    room = Room(model[1], 2, 64, torch.float16, CPU)
    cache = plain(None)(room)
    query, key, value = (torch.randn(2, heads, 1, 64).half() for heads in (4, 2, 2))
    got = cache.attend(1, query, key, value, 0.0)
    keys, values = (rows.repeat_interleave(2, dim=1).float() for rows in cache.layers[1])
    assert torch.equal(keys[:, ::2, -1:].half(), key)
    weight = (query.float() @ keys.transpose(-1, -2) / 8).softmax(-1)
    torch.testing.assert_close(got.float(), (weight @ values).transpose(1, 2), rtol=2e-3, atol=2e-3)
    assert cache.nbytes == PlainCache(room, None).nbytes == 2 * 2 * 2 * 2 * 64 * 64 * 2


def test_a_peer_that_cannot_is_said_and_ours_must(host_library, monkeypatch):
    options = DecodeOptions("small", compiled=False, device="cpu", library=host_library.path, sweep={1: (200,)})

    def refuse(*_):
        raise RuntimeError("no kernel\nfor this shape")

    monkeypatch.setattr(decode_run, "plain", lambda backend: refuse)
    report = run(options)
    assert [point.cache for point in report.points] == [OURS]
    assert report.refused == ["SDPA fp16, 1 x 200: no kernel"]
    monkeypatch.setattr(decode_run, "ours", lambda config, library: refuse)
    with pytest.raises(RuntimeError, match="no kernel"):
        run(options)


def test_an_unknown_model_is_named():
    with pytest.raises(ConfigError, match="unknown model"):
        run(DecodeOptions("llama-9", device="cpu"))


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void innerq::(anonymous namespace)::attend<innerq::AttendPolicy<128>>", "attention"),
        ("void innerq::run_tiles<innerq::FusedAppend<innerq::FixedCodes<3, 0>, 1, true>>", "append"),
        ("nvjet_hsh_64x8_64x16_4x1_v_bz_TNT", "gemm"),
        ("void gemv2T_kernel_val<int, int, __half>", "gemm"),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<cutlass::half_t>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_f16", "attention"),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda", "append"),
        ("triton_red_fused__unsafe_view_add_mm_t_3", "gemm"),
        ("triton_poi_fused__to_copy_bmm_expand_unsqueeze_0", "rest"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "rest"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel, kind):
    assert kind_of(kernel) == kind


def told(cache, batch, tokens, ms):
    parts = {"gemm": 1.0, "attention": ms - 1.5, "append": 0.2, "rest": 0.3}
    return Point(cache, batch, tokens, ms, ms * 1.02, tokens * 100, tokens * 100 + 16, parts, 400)


def card_report(report):
    points = [told(*row) for row in ((OURS, 8, 32768, 6.0), ("SDPA cuDNN fp16", 8, 32768, 12.0))]
    points += [told("SDPA flash fp16", 8, 32768, 15.0), told("FlashInfer FA2 fp8", 8, 32768, 9.0)]
    fits = [Fit(OURS, 8, 4400, 1, 2), Fit("SDPA cuDNN fp16", 8, 1000, 1, 2)]
    return dataclasses.replace(report, points=points, fits=fits, refused=["a peer: a reason"])


def test_ratios_are_those_to_the_best_unquantised_cache(report):
    made = card_report(report)
    assert made.ratio(8, 32768) == 2.0
    assert made.ratio(1, 1) is None
    assert made.fit_ratio() == 4.4
    text = markdown(made)
    assert f"| 12.000 | 667 | 2.00 | {BARS[8, 32768]:.2f} |" in text
    assert "| 9.000 | 889 | 1.50 |  |" in text
    assert "+2.0%" in text
    assert "Not measured: a peer: a reason" in text


def test_figures_in_light_and_dark(report, tmp_path):
    from innerq_export.figures.decode import decode_figures

    paths = decode_figures(card_report(report).to_dict(), tmp_path)
    assert [path.name for path in paths] == [
        f"decode-{what}-{theme}.svg" for what in ("speed", "memory", "parts") for theme in ("light", "dark")
    ]
    text = paths[0].read_text()
    assert "FlashInfer FA2 fp8, 8" in text
    assert "32K" in text
    assert "attention" in paths[4].read_text()


def test_the_command_writes_and_draw_draws_again(host_library, tmp_path):
    words = ["decode", "--model", "small", "--device", "cpu", "--eager", "--point", "1x160", "--no-peers"]
    words += ["--library", str(host_library.path), "--output", str(tmp_path), "--format", "json"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["points"][0]["tokens"] == 160
    assert {"decode.json", "decode.md", "decode-speed-dark.svg"} <= {path.name for path in tmp_path.iterdir()}
    again = CliRunner().invoke(command, ["draw", str(tmp_path / "decode.json"), "--output", str(tmp_path / "again")])
    assert (tmp_path / "again" / "decode-speed-dark.svg").read_bytes() == (
        tmp_path / "decode-speed-dark.svg"
    ).read_bytes()
    assert again.exit_code == 0


@pytest.mark.parametrize("words", [["--point", "8"], ["--point", "8x"], ["--model", "gpt"], ["--dtype", "float8"]])
def test_typos_are_usage_errors(words):
    assert CliRunner().invoke(command, ["decode", *words]).exit_code == 2
