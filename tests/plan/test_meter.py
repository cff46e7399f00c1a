"""The meter sees what a stage takes, here and in a child, and forgets what was before."""

import subprocess
import sys

import pytest

from innerq_export.plan.meter import Meter
from innerq_export.progress import Silent

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peaks come from /proc")
MB = 1_000_000


def measured(work):
    meter = Meter(Silent())
    with meter.stage("work"):
        work()
    return meter.stages[0]


@LINUX
def test_a_peak_belongs_to_its_stage():
    before = measured(lambda: None)
    during = measured(lambda: bytearray(b"x") * (300 * MB))
    after = measured(lambda: None)
    assert during.peak - before.peak == pytest.approx(300 * MB, rel=0.1)
    assert after.peak < during.peak - 250 * MB


@LINUX
def test_a_childs_peak_is_counted_and_its_time():
    code = "import time; kept = b'x' * 200_000_000; time.sleep(0.5)"
    seen = measured(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert seen.child_peak == pytest.approx(205 * MB, rel=0.1)
    assert seen.seconds >= 0.5


def test_a_stage_that_raises_is_not_kept():
    meter = Meter(Silent())
    with pytest.raises(KeyboardInterrupt), meter.stage("work"):
        raise KeyboardInterrupt
    assert meter.stages == []
