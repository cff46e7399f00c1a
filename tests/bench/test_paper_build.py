"""The paper's speed tests are compiled: found, named by what they are made of, kept; by a stand-in and by nvcc."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from innerq_export.bench import kernels
from innerq_export.bench.kernels import Options, run
from innerq_export.bench.peers import paper_build
from innerq_export.bench.peers.paper import PaperTiming, run_folder
from innerq_export.bench.peers.paper_build import sources_of
from innerq_export.cli.output import RichProgress
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.integrations import toolchain
from innerq_export.progress import Silent

SPEED_TEST = """
#include <cstdio>
__global__ void scale(float *data, float by) { data[blockIdx.x * blockDim.x + threadIdx.x] *= by; }
int main() { std::printf("QK^T,N:%d,of_our_own,Latency:1.5\\n", N); }
"""
NVCC = """
if [ "$1" = --version ]; then echo "release 13.0, V13.0.88"; exit; fi
echo "$@" >> {log}
echo '#!/bin/sh' > "$6"
echo "echo 'AV,N:${{1#-DN=}},made,Latency:2.5'" >> "$6"
chmod +x "$6"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "paper-kernels"


@pytest.fixture
def fake_nvcc(tmp_path, monkeypatch, cache):
    """Make $CUDACXX a script; the default one writes its words into the file it returns and makes a program in sh."""

    def make(script=NVCC):
        nvcc, log = tmp_path / "nvcc", tmp_path / "nvcc.log"
        nvcc.write_text("#!/bin/sh\n" + script.format(log=log))
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDACXX", str(nvcc))
        return log

    return make


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "innerq"
    (folder / "speedtest").mkdir(parents=True)
    (folder / "speedtest" / "benchmark_qkt.cu").write_text(SPEED_TEST)
    return folder


def test_sources_are_found_in_a_checkout_and_in_its_speedtest_folder(checkout):
    assert [path.name for path in sources_of(checkout)] == ["benchmark_qkt.cu"]
    assert sources_of(checkout) == sources_of(checkout / "speedtest")
    assert sources_of(checkout.parent) == []


def test_each_source_is_compiled_for_each_number_of_tokens_and_run(checkout, fake_nvcc, cache):
    log = fake_nvcc()
    (checkout / "speedtest" / "benchmark_quantization.cu").write_text(SPEED_TEST)
    told = run_folder(checkout, 90)
    assert [timing.tokens for timing in told.timings] == [4096, 32768, 131072, 1, 32]
    commands = log.read_text().splitlines()
    assert len(commands) == 5
    assert commands[0].startswith(f"-DN=4096 -O3 -arch=sm_90 {checkout}/speedtest/benchmark_qkt.cu -o ")
    assert told.made.startswith("sm_90, nvcc 13.0.88, sources ")
    assert all("-sm_90-nvcc13.0.88-" in path.name for path in cache.iterdir())
    assert sorted(path.name for path in checkout.rglob("*.*")) == ["benchmark_qkt.cu", "benchmark_quantization.cu"]


def test_only_what_changed_is_compiled_again(checkout, fake_nvcc):
    log = fake_nvcc()
    programs, source = 0, checkout / "speedtest" / "benchmark_qkt.cu"
    changes = [
        lambda: source.write_text(SPEED_TEST + "\n"),
        lambda: (source.parent / "shared.cuh").write_text("// read by the source"),
        lambda: fake_nvcc(NVCC.replace("V13.0.88", "V13.1.2")),
    ]
    for change in (lambda: None, *changes):
        change()
        before = run_folder(checkout, 90)
        programs += 3
        assert run_folder(checkout, 90) == before
        assert len(log.read_text().splitlines()) == programs
    run_folder(checkout, 120)
    assert len(log.read_text().splitlines()) == programs + 3


def test_a_compile_that_fails_says_the_compilers_words_and_leaves_nothing(checkout, fake_nvcc, cache):
    fake_nvcc(
        'if [ "$1" = --version ]; then exit; fi\n'
        "echo 'x.cu(3): warning: unused' >&2; echo 'x.cu(5): error: no such thing' >&2; exit 2"
    )
    with pytest.raises(UserError, match=r"(?s)compiling .*qkt\.cu failed.*status 2\s+x\.cu\(5\): error: no such thing"):
        run_folder(checkout, 90)
    assert list(cache.iterdir()) == []


def test_a_compiler_that_does_not_end_is_ended(checkout, fake_nvcc, cache, monkeypatch):
    fake_nvcc('if [ "$1" = --version ]; then exit; fi\nsleep 60')
    monkeypatch.setattr(paper_build, "LIMIT_SECONDS", 0.3)
    with pytest.raises(UserError, match="no end after"):
        run_folder(checkout, 90)


def test_a_compiler_that_is_none_is_told(checkout, cache, tmp_path, monkeypatch):
    (tmp_path / "nvcc").write_bytes(b"\x7fELF, but not really")
    (tmp_path / "nvcc").chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    with pytest.raises(UserError, match=r"asking nvcc for its version failed"):
        run_folder(checkout, 90)


def test_without_nvcc_the_message_says_what_to_install(checkout, cache, tmp_path, monkeypatch):
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(toolchain, "DEFAULT_CUDA", tmp_path / "cuda")
    with pytest.raises(EnvironmentMismatchError, match=r"(?s)nvcc, which was not found.*leave --paper-kernels out"):
        run_folder(checkout, 90)


def test_without_a_card_nothing_is_compiled(checkout, fake_nvcc, host_library):
    log = fake_nvcc()
    options = Options(("smoke",), ("base",), False, checkout, host_library.path, "cpu")
    with pytest.raises(EnvironmentMismatchError, match="need a CUDA card"):
        run(options, Silent())
    assert not log.exists()


def test_a_cache_folder_that_takes_nothing_is_told(checkout, fake_nvcc, tmp_path):
    fake_nvcc()
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.raises(EnvironmentMismatchError, match="INNERQ_EXPORT_CACHE"):
        run_folder(checkout, 90)


def test_the_command_compiles_shows_it_and_reports(checkout, fake_nvcc, host_library, monkeypatch, capfd):
    fake_nvcc()
    monkeypatch.setattr(kernels, "_architecture", lambda device: 90)
    report = run(Options(("smoke",), ("base",), False, checkout, host_library.path, "cpu"), RichProgress())
    assert report.paper[0] == {"product": "AV", "tokens": 4096, "kernel": "made", "us": 2.5}
    assert report.environment["paper_kernels"].startswith("sm_90, nvcc 13.0.88")
    shown = capfd.readouterr().err
    assert "compiling the paper's kernels" in shown
    assert "running the paper's kernels" in shown


@pytest.mark.skipif(not all(map(shutil.which, ("nvcc", "cuobjdump"))), reason="needs nvcc and cuobjdump")
def test_nvcc_itself_compiles_for_the_card(checkout, cache, monkeypatch):
    monkeypatch.setattr(paper_build, "ATTENTION_TOKENS", (4096,))
    assert run_folder(checkout, 90).timings == [PaperTiming("QK^T", 4096, "of_our_own", 1.5)]
    (program,) = cache.iterdir()
    elf = subprocess.run(["cuobjdump", "--list-elf", program], capture_output=True, text=True, check=False)
    assert "sm_90.cubin" in elf.stdout
    (checkout / "speedtest" / "benchmark_qkt.cu").write_text("int main() { return no_such_name; }")
    with pytest.raises(UserError, match=r"no_such_name"):
        run_folder(checkout, 90)


@pytest.mark.gpu
def test_kernels_run_on_the_card_they_were_compiled_for(checkout, cache, monkeypatch):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card")
    launch = (
        "float *p; cudaMalloc(&p, 128); scale<<<1, 32>>>(p, 2); if (cudaDeviceSynchronize()) return 1; std::printf("
    )
    (checkout / "speedtest" / "benchmark_qkt.cu").write_text(SPEED_TEST.replace("std::printf(", launch))
    monkeypatch.setattr(paper_build, "ATTENTION_TOKENS", (4096,))
    assert len(run_folder(checkout, kernels._architecture(torch.device("cuda"))).timings) == 1
