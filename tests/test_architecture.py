"""The rules of the house: who may import whom, what stays light, how large a file may be."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from innerq_export import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "innerq_export"
FLOW = ["checkpoint", "graph", "rewrite", "onnx_io", "engine", "runtime"]
BASE = {"artifacts", "errors", "identity", "progress", "spec"}
ALLOWED = {
    "spec": {"errors"},
    "artifacts": {"errors", "spec"},
    "errors": set(),
    "identity": set(),
    "progress": set(),
    "reference": BASE,
    "plan": BASE | {"checkpoint", "engine"},
    **{stage: BASE | set(FLOW[:position]) for position, stage in enumerate(FLOW)},
}
MISTAKES = {name for name in vars(errors) if name.endswith("Error")} - {"ParityError"}
TENSORS_OF_A_CALLER = {
    *(f"reference/{name}.py" for name in ("attention", "cache", "packed", "quantise")),
    *(f"integrations/{name}.py" for name in ("cache", "calls")),
}
ALLOWED["runtime"] = ALLOWED["runtime"] | {"integrations"}  # backend torch: the kernels in Python


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def hand_written() -> list[Path]:
    endings = {".py", ".h", ".hpp", ".cuh", ".cu", ".cpp"}
    folders = ("innerq_export", "plugins", "tests", "scripts", "examples")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in endings]


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_stage_imports_only_earlier_stages_and_nobody_imports_the_cli(path):
    stage = stage_of(path)
    used = {
        name.split(".")[1] for name in imports_of(path) if name.startswith("innerq_export.") and name.count(".") >= 1
    }
    used &= {child.name.removesuffix(".py") for child in PACKAGE.iterdir()}
    if stage in ALLOWED:
        assert used <= ALLOWED[stage] | {stage}, f"{path} may not import {used - ALLOWED[stage] - {stage}}"
    if stage != "cli":
        assert "cli" not in used


def test_ring_one_knows_neither_tensorrt_nor_torch():
    for path in (ROOT / "plugins" / "include").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "NvInfer" not in text, path
            assert "<torch" not in text, path


@pytest.mark.parametrize(
    "code", ["import innerq_export", "import innerq_export.cli.main as m; m.cli(['--help'], standalone_mode=False)"]
)
def test_import_and_help_are_light(code):
    heavy = "{'torch', 'onnx', 'onnxruntime', 'transformers', 'tensorrt', 'tensorrt_rtx', 'numpy', 'onnx_ir'}"
    script = f"import sys; {code}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_files_stay_small():
    lines = {path: len(path.read_text().splitlines()) for path in hand_written()}
    too_long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400}
    assert not too_long, too_long
    assert statistics.median(count for count in lines.values() if count > 3) <= 110


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_mistake_of_a_user_comes_with_its_fix(path):
    """Errors about the tensors of a caller in Python need none, and a failed parity says in its report what is next."""
    if path.relative_to(PACKAGE).as_posix() in TENSORS_OF_A_CALLER:
        pytest.skip("about tensors")
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    mistakes = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in MISTAKES]
    bare = [call.lineno for call in mistakes if not {"fix", None} & {keyword.arg for keyword in call.keywords}]
    assert not bare, f"{path}: errors without fix= at lines {bare}"


def test_no_path_of_a_developers_machine_is_committed():
    listed = subprocess.run(
        ["git", "grep", "-lE", "/wor[k]/|[.]librar[y]/", "--", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.stdout == ""
