"""In the machine code, every kernel waits for the grid before it ahead of its first access to memory (grid_order.cuh).

nvcc 13.0 does move a read-only load ahead of that wait where other work stands between them, `asm volatile` or not.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from innerq_export.integrations.resolve import candidates
from innerq_export.integrations.toolchain import DEFAULT_CUDA, find_tool

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.]*)")
ACCESSES = ("LDG", "STG", "RED", "ATOM", "LD.", "ST.", "UBLK", "LDGSTS")
WAITING = ("attend_kernel", "run_tiles")


def hasty(sass: str) -> dict[str, bool]:
    """Return of each kernel that waits, from cuobjdump's listing, whether it accesses global memory before.

    Code for cards before sm_90, which has no such wait and is launched in order, is left out.
    """
    found = {}
    for section in sass.split("code for sm_")[1:]:
        if int(re.match(r"\d+", section)[0]) < 90:
            continue
        for listing in section.split("Function : ")[1:]:
            codes = INSTRUCTION.findall(listing)
            first = next((i for i, code in enumerate(codes) if code.startswith(ACCESSES)), len(codes))
            if any(word in listing.split()[0] for word in WAITING):
                found[listing.split()[0]] = "ACQBULK" not in codes[:first]
    return found


LINES = {"wait": "/*0130*/ ACQBULK ;", "load": "/*0140*/ @!P1 LDG.E.CONSTANT R6, desc[UR20][R4.64] ;"}


@pytest.mark.parametrize(("order", "expected"), [("wait load", False), ("load wait", True), ("load", True)])
def test_the_order_is_seen(order, expected):
    kernel = "Function : x_run_tiles_y\n/*0000*/ LDC R1, c[0x0][0x28] ;\n"
    lines = "\n".join(LINES[word] for word in order.split())
    old = f"code for sm_80\n{kernel}{LINES['load']}\n"
    assert hasty(f"{old}code for sm_90a\nFunction : other\n{LINES['load']}\n{kernel}{lines}\n") == {
        "x_run_tiles_y": expected
    }


def test_every_kernel_of_the_library_waits_first():
    library = next((place.path for place in candidates("cuda") if place.path.is_file()), None)
    if library is None:
        pytest.skip("needs a library that was built with nvcc (innerq-export plugin build --arch 90)")
    cuobjdump = find_tool("cuobjdump", DEFAULT_CUDA / "bin" / "cuobjdump")
    if cuobjdump is None:
        pytest.skip("needs cuobjdump")
    listing = subprocess.run([cuobjdump, "-sass", library], capture_output=True, text=True, check=True).stdout
    found = hasty(listing)
    if "code for sm_9" in listing:
        assert len(found) > 40, "kernels not recognised"
    assert not [name for name, is_hasty in found.items() if is_hasty]
