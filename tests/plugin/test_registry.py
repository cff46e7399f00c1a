"""TensorRT's own plugin registry, from the lean runtime, loads the library."""

import subprocess
import sys

import pytest

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OPS, attributes_of
from tests.plugin.conftest import cuda_library
from tests.plugin.host import PluginHost, fields

PYTHON = """
import sys, tensorrt_lean as trt, numpy as np
registry = trt.get_plugin_registry()
assert registry.load_library({path!r}) is not None
kinds = {{trt.PluginFieldType.INT32: int, trt.PluginFieldType.FLOAT32: float, trt.PluginFieldType.CHAR: str}}
for name, attributes in {ops!r}.items():
    creator = registry.get_creator(name, "1", "innerq")
    listed = {{field.name: kinds[field.type].__name__ for field in creator.field_names}}
    assert listed == {{key: type(value).__name__ for key, value in attributes.items()}}, listed
    def collection(values):
        return trt.PluginFieldCollection([trt.PluginField(key, *data(value)) for key, value in values.items()])
    def data(value):
        if isinstance(value, str):
            return np.frombuffer(value.encode(), dtype=np.int8), trt.PluginFieldType.CHAR
        if isinstance(value, float):
            return np.array([value], dtype=np.float32), trt.PluginFieldType.FLOAT32
        return np.array([value], dtype=np.int32), trt.PluginFieldType.INT32
    for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME):
        assert creator.create_plugin("layer", collection(attributes), phase) is not None
    for key in attributes:
        missing = {{other: value for other, value in attributes.items() if other != key}}
        try:
            assert creator.create_plugin("layer", collection(missing), trt.TensorRTPhase.BUILD) is None
        except RuntimeError:
            pass
print("ok")
"""


@pytest.fixture(params=["host", "cuda"])
def in_registry(request, built, lean):
    """A process with the library in the registry: the host build, and the CUDA build where there is one."""
    driver = PluginHost(built.program)
    library = built.library if request.param == "host" else cuda_library()
    assert sorted(driver.ok("registry", lean, library)["creators"]) == sorted(OPS)
    yield driver
    assert driver.close() == 0


def test_the_registry_lists_both_creators_and_they_create(in_registry):
    for name, op in OPS.items():
        in_registry.ok("create", name, name, "runtime", *fields(attributes_of(op, CacheConfig())))
        assert in_registry.ok("describe", name)["name"] == name


def test_a_bad_field_ends_at_tensorrts_logger(in_registry):
    answer = in_registry.create("bad", "InnerQAppend", attributes_of(OPS["InnerQAppend"], CacheConfig()) | {"sink": -1})
    assert answer["status"] == 1
    in_registry.process.stdin.close()
    assert "config.sink: expected 0" in in_registry.process.stderr.read() + in_registry.process.stdout.read()


def test_from_python_through_tensorrt_lean(built, lean):
    ops = {name: dict(attributes_of(op, CacheConfig())) for name, op in OPS.items()}
    script = PYTHON.format(path=str(built.library), ops=ops)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stdout.endswith("ok\n"), result.stdout + result.stderr
    assert "field 'sink' is missing" in result.stdout + result.stderr


def test_a_library_for_another_tensorrt_registers_nothing_and_says_why(built, built_for_10, lean):
    driver = PluginHost(built.program)
    answer = driver.call("registry", lean, built_for_10.library)
    assert answer["status"] == 1 and answer["creators"] == []
    driver.process.stdin.close()
    assert driver.process.wait() == 0
    assert "built for TensorRT 10, the process runs TensorRT 11" in driver.process.stderr.read()


def test_the_library_links_no_tensorrt_and_exports_two_symbols_for_it(built):
    """Beside the C ABI, whose names all begin with innerq_."""
    linked = subprocess.run(["ldd", built.library], capture_output=True, text=True, check=True).stdout
    assert "nvinfer" not in linked and "not found" not in linked
    listed = subprocess.run(["nm", "-D", "--defined-only", built.library], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines() if " T " in line}
    assert {name for name in names if not name.startswith("innerq_")} == {"getCreators", "setLoggerFinder"}
