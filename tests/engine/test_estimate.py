"""The builder's phases and the clock as one number that a user can trust: it moves, never goes back, ends at one."""

from hypothesis import given
from hypothesis import strategies as st

from innerq_export.engine.estimate import COMPILE_PHASE, Estimate, PhaseTree

reports = st.lists(
    st.tuples(
        st.sampled_from(["start", "step", "finish"]),
        st.sampled_from(["a", "b", COMPILE_PHASE]),
        st.integers(0, 5),
        st.floats(0, 100),
    )
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


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


@given(reports)
def test_no_order_of_reports_breaks_the_bar(calls):
    clock = Clock()
    estimate, before = Estimate(2, 100, clock), 0.0
    for kind, name, number, seconds in calls:
        clock.now += seconds
        getattr(estimate, kind)(*([name] if kind == "finish" else [name, number]))
        assert before <= estimate.fraction <= 1
        before = estimate.fraction


def test_the_bar_moves_while_tensorrt_is_silent_and_learns_from_the_first_profile():
    clock = Clock()
    estimate = Estimate(2, 1000, clock)
    estimate.start("Building engine", 1)
    estimate.start(COMPILE_PHASE, 1)
    assert estimate.note == "compiling profile 1 of 2"
    seen = []
    for _ in range(4):
        clock.now += 2.0
        seen.append(estimate.fraction)
    assert seen == sorted(set(seen))
    assert seen[-1] < 0.5
    estimate.finish(COMPILE_PHASE)
    estimate.start(COMPILE_PHASE, 1)
    start = estimate.fraction
    clock.now += 4.0
    assert 0.19 < estimate.fraction - start < 0.24
    estimate.finish(COMPILE_PHASE)
    estimate.finish("Building engine")
    assert estimate.fraction == 1
