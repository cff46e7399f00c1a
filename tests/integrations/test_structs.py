"""The ctypes mirror against the header itself: a C probe for sizes and offsets, the text for names and enums."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from innerq_export.integrations import structs
from innerq_export.spec import KEY_NORMS, MODES, SPEC_VERSION

HEADER = Path(__file__).parents[2] / "plugins" / "launch" / "innerq.h"
TEXT = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def fields_in_header(name):
    body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", TEXT, re.DOTALL).group(1)
    return [re.search(r"(\w+)$", line.strip()).group(1) for line in body.split(";") if line.strip()]


def enum_in_header(name):
    body = re.search(rf"typedef enum {name} \{{(.*?)\}} {name};", TEXT, re.DOTALL).group(1)
    return {word: int(value) for word, value in re.findall(r"(\w+) = (\d+)", body)}


def test_every_struct_and_function_of_the_header_is_mirrored():
    assert set(re.findall(r"typedef struct (\w+)", TEXT)) == set(structs.STRUCTS)
    functions = set(re.findall(r"INNERQ_API innerq_status (\w+)\(", TEXT))
    assert functions == set(structs.FUNCTIONS)


@pytest.mark.parametrize("name", structs.STRUCTS)
def test_fields_have_the_headers_names_and_order(name):
    assert [field for field, _ in structs.STRUCTS[name]._fields_] == fields_in_header(name)


@pytest.mark.parametrize("name", structs.FUNCTIONS)
def test_functions_take_as_many_arguments(name):
    arguments = re.search(rf"INNERQ_API innerq_status {name}\((.*?)\);", TEXT, re.DOTALL).group(1)
    assert len(arguments.split(",")) == len(structs.FUNCTIONS[name])


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_sizes_and_offsets_are_the_compilers(tmp_path):
    lines = []
    for name, mirror in structs.STRUCTS.items():
        lines.append(f'printf("\\"{name}\\": [%zu", sizeof({name}));')
        for field, _ in mirror._fields_:
            lines.append(f'printf(", %zu, %zu", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
        lines.append('printf("],");')
    source = tmp_path / "probe.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{ {" ".join(lines)} return 0; }}')
    subprocess.run(["cc", "-std=c99", "-Wall", "-Werror", str(source), "-o", str(tmp_path / "probe")], check=True)
    output = subprocess.run([str(tmp_path / "probe")], capture_output=True, text=True, check=True).stdout
    measured = json.loads("{" + output.rstrip(",") + "}")
    for name, mirror in structs.STRUCTS.items():
        expected = [ctypes.sizeof(mirror)]
        for field, type_ in mirror._fields_:
            expected += [getattr(mirror, field).offset, ctypes.sizeof(type_)]
        assert measured[name] == expected, name


def test_enums_and_constants():
    assert list(enum_in_header("innerq_mode")) == [f"INNERQ_{mode.upper()}" for mode in MODES]
    assert list(enum_in_header("innerq_key_norm")) == [f"INNERQ_KEY_NORM_{norm.upper()}" for norm in KEY_NORMS]
    assert list(enum_in_header("innerq_status")) == list(structs.STATUS)
    assert list(enum_in_header("innerq_activation")) == [f"INNERQ_{name.upper()}" for name in structs.ACTIVATIONS]
    assert enum_in_header("innerq_flag") == {
        "INNERQ_FLAG_CAPACITY": structs.FLAG_CAPACITY,
        "INNERQ_FLAG_LENGTH": structs.FLAG_LENGTH,
    }
    for name in ("innerq_mode", "innerq_key_norm", "innerq_status", "innerq_activation"):
        assert list(enum_in_header(name).values()) == list(range(len(enum_in_header(name))))
    constants = dict(re.findall(r"#define (INNERQ_\w+) (\d+)", TEXT))
    assert int(constants["INNERQ_SPEC_VERSION"]) == SPEC_VERSION
    assert int(constants["INNERQ_MAX_ATTEND_TOKENS"]) == structs.MAX_ATTEND_TOKENS
