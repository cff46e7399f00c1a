"""The doctor: guarded probes, light imports, a report for people and for programs, a bundle without secrets."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from innerq_export.cli.doctor import command
from innerq_export.doctor import Finding, Report, bundle, examine, packages, system, tensorrt
from innerq_export.doctor import report as report_module
from innerq_export.doctor.finding import guarded
from innerq_export.doctor.run import ask_python
from innerq_export.errors import UserError
from tests.engine.toy import toy_engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Leave out the probes that start other Pythons."""
    kept = [probe for probe in report_module.PROBES if probe[1] is not tensorrt.loaded]
    monkeypatch.setattr(report_module, "PROBES", tuple(kept))


def standard_model(folder: Path) -> Path:
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", inputs, outputs)
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def test_importing_the_doctor_needs_the_standard_library_only():
    script = (
        "import sys, innerq_export.doctor, innerq_export.doctor.bundle;"
        "roots = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'innerq_export', '__main__', '__mp_main__'}))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    loaded = [name for name in eval(result.stdout) if not name.startswith(("_", "sitecustomize", "apport"))]
    assert loaded == []


def test_a_failing_probe_is_a_finding():
    def probe():
        yield Finding("t", "first", "ok", "fine")
        raise RuntimeError("disk on fire")

    first, second = guarded("t", probe)
    assert first.state == "ok"
    assert second.state == "unknown" and "RuntimeError: disk on fire" in second.text


def test_a_crash_in_another_python_is_told():
    assert "SIGSEGV" in ask_python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")["error"]
    assert ask_python("raise ValueError('no')")["error"] == "ValueError: no"
    assert ask_python("print('{\"a\": 1}')") == {"a": 1}


def test_a_package_outside_the_tested_versions_is_a_problem():
    finding = packages.required("onnx", ">=99", lambda version, prereleases: False)
    assert finding.state == "problem" and "pip install 'onnx>=99'" in finding.fix
    assert packages.required("no-such-package", ">=1", lambda *a, **k: True).state == "problem"


def test_the_oldest_python_is_the_one_that_the_project_asks_for(monkeypatch):
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert asked == f">={system.OLDEST_PYTHON[0]}.{system.OLDEST_PYTHON[1]}"
    assert next(system.python()).state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert next(system.python()).state == "problem"


def test_another_tensorrt_than_the_installed_one_is_a_problem():
    files = ["/opt/other/libnvinfer.so.10"]
    assert tensorrt.compared("tensorrt", "11.4.0.106", "11.4.0.106", files).state == "ok"
    wrong = tensorrt.compared("tensorrt", "11.4.0.106", "10.16.0.1", files)
    assert wrong.state == "problem" and "/opt/other" in wrong.text and "LD_LIBRARY_PATH" in wrong.fix


def test_headers_are_found_where_the_variable_says(monkeypatch, tmp_path):
    (tmp_path / "NvInferVersion.h").write_text("#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 16\n")
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    (finding,) = tensorrt.headers()
    assert finding.state == "ok" and finding.text == f"10.16 in {tmp_path}"
    monkeypatch.setattr(tensorrt, "HEADER_PLACES", ())
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path / "gone"))
    (finding,) = tensorrt.headers()
    assert finding.state == "absent" and "libnvinfer-headers-dev" in finding.fix


def test_little_disk_is_a_warning(monkeypatch):
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(system.shutil, "disk_usage", lambda place: usage)
    assert {finding.state for finding in system.disk()} == {"warning"}


def test_every_card_of_nvidia_smi_is_listed(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 143771 MiB, 580.159.04'\necho 'NVIDIA L4, 8.9, 1 MiB, 580'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [finding.text[:11] for finding in system.cards()] == ["NVIDIA H200", "NVIDIA L4, "]


def test_a_model_of_standard_ops_needs_no_plugin(quick, tmp_path):
    report = examine(standard_model(tmp_path))
    (onnx_finding,) = [finding for finding in report.findings if finding.topic == "onnx"]
    assert onnx_finding.state == "ok" and "no plugin is needed" in onnx_finding.text


def test_an_engine_folder_is_held_against_this_machine(quick, tmp_path):
    folder = toy_engine(tmp_path / "toy")

    def engine_findings():
        return [finding for finding in examine(folder).findings if finding.topic == "engine"]

    (good,) = engine_findings()
    assert (good.name, good.state) == ("onnxruntime", "ok")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["backends"]["onnxruntime"]["versions"]["onnxruntime"] = "999.0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (bad,) = engine_findings()
    assert bad.state == "problem" and "onnxruntime 999.0" in bad.text and "innerq-export build" in bad.fix
    (folder / "manifest.json").write_text("{")
    (broken,) = engine_findings()
    assert broken.state == "problem" and "not JSON" in broken.text


def test_what_is_no_model_is_refused(quick, tmp_path):
    with pytest.raises(UserError, match="no ONNX model"):
        examine(tmp_path)


def test_json_and_exit_code(quick, tmp_path):
    missing = tmp_path / "libinnerq_trt.so"
    result = CliRunner().invoke(command, ["--format", "json", "--library", str(missing)], standalone_mode=False)
    report = json.loads(result.stdout)
    assert result.return_value == 4 and report["problems"] == 1 and report["schema"] == 1
    (problem,) = [finding for finding in report["findings"] if finding["state"] == "problem"]
    assert "no such file" in problem["text"] and "innerq-export plugin build" in problem["fix"]


def test_human_report_shows_marks_and_fixes(quick, tmp_path):
    text = CliRunner().invoke(command, ["--library", str(tmp_path / "x.so")], standalone_mode=False).stdout
    assert "PROBLEM" in text and "fix: innerq-export plugin build" in text and "\nsystem\n" in "\n" + text


def test_the_bundle_holds_findings_and_outline_but_no_weights_or_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("INNERQ_LIBRARY", f"{Path.home()}/libinnerq_trt.so")
    model = standard_model(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    target = tmp_path / "report.zip"
    names = bundle.write_bundle(target, Report((Finding("t", "n", "ok", "x"),)), model)
    with zipfile.ZipFile(target) as file:
        assert sorted(file.namelist()) == sorted(names)
        texts = "".join(file.read(name).decode() for name in names)
    assert set(names) == {"doctor.json", "packages.txt", "environment.txt", "manifest.json", "nodes.json"}
    assert "INNERQ_LIBRARY=~/libinnerq_trt.so" in texts
    assert "hf_secret" not in texts and "weights" not in texts
