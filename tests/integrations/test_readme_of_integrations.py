"""The page's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import innerq_export.integrations


def test_the_example_runs(capsys):
    page = (Path(innerq_export.integrations.__file__).parent / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert "(2, 8, 1, 128) flags 0" in capsys.readouterr().out
