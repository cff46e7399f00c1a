"""Plans go to their file in pieces, or whole where a binding knows no pieces; a full disk is an error with its name."""

from types import SimpleNamespace

import pytest

from innerq_export.engine.plan_file import write_plan
from innerq_export.errors import UserError

TRT = SimpleNamespace(IStreamWriter=object)


class Streaming:
    """A builder that hands its plan on in two pieces and fails when one is not taken."""

    def build_serialized_network_to_stream(self, network, config, writer):
        return all(writer.write(piece) == len(piece) for piece in (memoryview(b"first "), memoryview(b"second")))


class Whole:
    def __init__(self, plan):
        self.plan = plan

    def build_serialized_network(self, network, config):
        return self.plan


@pytest.mark.parametrize("builder", [Streaming(), Whole(b"first second")])
def test_the_file_holds_the_plan(builder, tmp_path):
    assert write_plan(TRT, builder, None, None, tmp_path / "plan")
    assert (tmp_path / "plan").read_bytes() == b"first second"


def test_no_plan(tmp_path):
    assert not write_plan(TRT, Whole(None), None, None, tmp_path / "plan")
    refusing = SimpleNamespace(build_serialized_network_to_stream=lambda network, config, writer: False)
    assert not write_plan(TRT, refusing, None, None, tmp_path / "plan")


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_full_disk_is_named(size, tmp_path):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    builder = Streaming()
    builder.build_serialized_network_to_stream = lambda network, config, writer: writer.write(bytes(size)) > 0
    with pytest.raises(UserError, match=r"the plan cannot be written[\s\S]*No space left"):
        write_plan(TRT, builder, None, None, full)
