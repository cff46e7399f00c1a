"""The builder's tree of phases as one number, and interrupts that reach the builder."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.engine.monitor import PhaseTree, progress_monitor

FAKE = SimpleNamespace(IProgressMonitor=object)


class Recorder:
    def __init__(self, failure=None):
        self.reports, self.failure = [], failure

    def advance(self, fraction, note=""):
        self.reports.append((fraction, note))
        if self.failure:
            raise self.failure


def test_nested_phases_fill_the_step_they_are_in():
    tree = PhaseTree()
    tree.start("build", 2)
    assert tree.fraction == 0
    tree.start("optimise", 4)
    tree.step("optimise", 0)
    assert (tree.fraction, tree.note) == (1 / 8, "optimise")
    tree.finish("optimise")
    tree.step("build", 0)
    assert (tree.fraction, tree.note) == (1 / 2, "build")
    tree.finish("build")
    assert tree.fraction == 1


@given(st.lists(st.tuples(st.sampled_from(["start", "step", "finish"]), st.sampled_from("abc"), st.integers(0, 5))))
def test_no_order_of_reports_breaks_the_bar(calls):
    tree, before = PhaseTree(), 0.0
    for kind, name, number in calls:
        getattr(tree, kind)(*([name] if kind == "finish" else [name, number]))
        assert before <= tree.fraction <= 1
        before = tree.fraction


def test_cancelling_stops_the_build_at_its_next_step():
    monitor = progress_monitor(FAKE, Recorder())
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    monitor.cancel()
    assert not monitor.step_complete("build", 1)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("broken bar")])
def test_what_the_progress_raises_is_kept_and_stops_the_build(failure):
    monitor = progress_monitor(FAKE, Recorder(failure))
    monitor.phase_start("build", None, 2)
    assert not monitor.step_complete("build", 0)
    assert monitor.failure is failure
