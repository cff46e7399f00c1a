"""scripts/verify_tensorrt.sh, with stand-ins for the programs it calls: every step runs, a failure is reported."""

import os
import subprocess
import tarfile

import pytest

from tests.plugin.conftest import ROOT

STEPS = [
    "doctor-before",
    "plugin-build",
    "plugin-tests",
    "kernel-tests",
    "engine-build",
    "doctor-engine",
    "engine-parity",
    "engine-run",
    "example",
    "triton-repository",
    "triton-serve",
]


@pytest.fixture
def verify(tmp_path):
    bin_ = tmp_path / "bin"
    bin_.mkdir()

    def program(name, body="exit 0"):
        (bin_ / name).write_text(f'#!/bin/bash\necho "{name} $@" >> {tmp_path}/calls\n{body}\n')
        (bin_ / name).chmod(0o755)

    for name in ("innerq-export", "python3", "tritonserver"):
        program(name, "echo said")
    program("cmake", f"mkdir -p {tmp_path}/out/example; cp {bin_}/decode {tmp_path}/out/example/tensorrt_decode")
    program("decode", "seq -s ' ' 16")
    program("curl")
    (tmp_path / "out" / "triton").mkdir(parents=True)
    (tmp_path / "out" / "triton" / "start.sh").write_text("#!/bin/bash\nexec sleep 30\n")
    (tmp_path / "out" / "triton" / "start.sh").chmod(0o755)

    def run(**replaced):
        for name, body in replaced.items():
            program(name.replace("_", "-"), body)
        environment = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"}
        command = [ROOT / "scripts" / "verify_tensorrt.sh", tmp_path / "out"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return result, (tmp_path / "out" / "report.md").read_text(), (tmp_path / "calls").read_text()

    return run


def test_every_step_runs_and_one_report_comes_out(verify, tmp_path):
    result, report, calls = verify()
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split(" | ")[0][2:] for line in report.splitlines() if line.endswith(" s |")] == STEPS
    assert "0 steps failed" in report and "What failed" not in report
    assert f"build --model llama --backend tensorrt --plugin-library {tmp_path}/out/plugin/libinnerq_trt.so" in calls
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        assert "report.md" in archive.getnames() and "logs/engine-parity.log" in archive.getnames()


def test_a_failed_step_is_reported_and_the_others_still_run(verify):
    body = 'if [[ $1 == parity ]]; then echo "layer 1 is wrong"; exit 3; fi'
    result, report, calls = verify(innerq_export=body)
    assert result.returncode == 1
    assert "| engine-parity | **failed (3)** |" in report and "layer 1 is wrong" in report
    assert "innerq-export run" in calls and "innerq-export triton" in calls


def test_too_few_tokens_of_the_example_fail(verify):
    result, report, _ = verify(decode="echo 1 2 3")
    assert result.returncode == 1 and "| example | **failed" in report


def test_a_server_that_dies_fails(verify, tmp_path):
    (tmp_path / "out" / "triton" / "start.sh").write_text("#!/bin/bash\nexit 1\n")
    result, report, _ = verify(curl="exit 7")
    assert result.returncode == 1 and "| triton-serve | **failed (1)** |" in report
