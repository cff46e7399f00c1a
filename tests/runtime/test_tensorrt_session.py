"""TensorRtSession on the stand-in: the toy model, whose every output can be foretold, and a real decoder."""

import numpy as np
import pytest

from innerq_export.engine import read_manifest
from innerq_export.engine.backend_record import record_of
from innerq_export.engine.card import first_card
from innerq_export.errors import ConfigError, EnvironmentMismatchError, OutOfMemoryError, UserError
from innerq_export.runtime.plan import Plan
from innerq_export.runtime.tensorrt import TensorRtSession, profile_for
from tests.engine.toy import CACHE, VOCAB, toy_engine
from tests.runtime import stand_in
from tests.runtime.plan_folder import PLUGIN, pretend, with_plan

CONTEXT = 1024
BACKENDS = ("tensorrt", "tensorrt-rtx")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("plans")
    source = toy_engine(place / "toy")
    return {name: with_plan(source, place / name, name, source / "model.onnx", CONTEXT) for name in BACKENDS}


@pytest.fixture(params=BACKENDS)
def session(request, folders, monkeypatch):
    pretend(monkeypatch)
    return TensorRtSession(folders[request.param], backend=request.param, batch=2)


def expected(tokens):
    return (tokens[-1] + len(tokens) - 1) % VOCAB


def test_ragged_prompts_and_tokens_that_rest(session):
    rows = [[5, 6, 7], [9]]
    logits_BV = session.prefill(rows)
    assert (logits_BV.shape, logits_BV.dtype) == ((2, VOCAB), np.float32)
    assert logits_BV.argmax(-1).tolist() == [expected(row) for row in rows]
    rows[0].append(11)
    assert session.decode([11, None]).argmax(-1)[0] == expected(rows[0])
    assert session.length_B.tolist() == [4, 1]
    assert session.cache(0)["window"][:, 0, 0, 0, 0].tolist() == [4, 1]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_chunked_prefill_ends_where_a_whole_one_ends(session, chunk):
    rows = [[5, 6, 7, 8, 9, 10, 11], [9]]
    assert session.prefill(rows, chunk=chunk).argmax(-1).tolist() == [expected(row) for row in rows]
    assert session.length_B.tolist() == [7, 1]


def test_prefill_and_decoding_take_their_profiles(session):
    context = session._plan._context
    session.prefill([[1, 2], [3]])
    assert context.active_optimization_profile == 0
    session.decode([1, 2])
    assert context.active_optimization_profile == 1


def test_the_cache_grows_up_to_the_profile_and_keeps_what_it_holds(session):
    cache = session.cache(0)["key_codes"]
    assert cache.shape[2] == 8
    cache[:] = 7
    session.prefill([[1] * (CACHE.sink + CACHE.recent + 32 * 9), [1]])
    grown = session.cache(0)["key_codes"]
    assert grown.shape[2] == 16
    assert (grown[:, :, :8] == 7).all()
    assert not grown[:, :, 8:].any()
    session.prefill([[1] * 600, [1]])
    assert session.cache(0)["key_codes"].shape[2] == (CONTEXT - CACHE.sink - CACHE.recent) // 32


def test_limits_are_those_of_the_build(session):
    with pytest.raises(ConfigError, match=r"at most 1024 tokens \(--max-context"):
        session.prefill([[1] * (CONTEXT + 1), [1]])
    with pytest.raises(ConfigError, match=r"at most 2(.|\n)*--max-batch 3"):
        session.reset(3)
    assert session.batch == 2
    session.decode([1, 2])


def test_reset_forgets(session):
    session.prefill([[1, 2], [3]])
    session.reset(1)
    assert session.length_B.tolist() == [0]
    assert session.cache(0)["window"].shape[0] == 1
    assert not session.cache(0)["window"].any()
    assert (session.cache(0)["key_norm"] == 1).all()


def test_tensorrt_works_in_place_and_rtx_on_two_buffers(folders, monkeypatch):
    pretend(monkeypatch)
    one, two = (TensorRtSession(folders[name], backend=name) for name in BACKENDS)
    assert 2 * one.cache_bytes == two.cache_bytes
    windows = [session.cache(0)["window"] for session in (one, two)]
    for session in (one, two):
        session.decode([1])
    assert one.cache(0)["window"] is windows[0]
    assert two.cache(0)["window"] is not windows[1]


def test_a_cache_that_is_not_bound_as_the_plan_wants_it_is_refused_with_its_reason(folders, monkeypatch):
    """Mutation: aliases left out of the manifest, or named where there are none: a step fails and changes nothing."""
    pretend(monkeypatch)
    for name, aliases in (("tensorrt", ()), ("tensorrt-rtx", [("past_window_0", "present_window_0")])):
        session = TensorRtSession(folders[name], backend=name)
        session.manifest = session.manifest.replace(aliases=tuple(aliases))
        session.reset()
        with pytest.raises(UserError, match=r"refused a step(.|\n)*past_(.|\n)*innerq-export doctor"):
            session.decode([1])
        assert session.length_B.tolist() == [0]


def test_the_plugin_is_registered_once_and_for_tensorrt_alone(folders, monkeypatch):
    pretend(monkeypatch)
    stand_in.LOADED.clear()
    TensorRtSession(folders["tensorrt-rtx"], backend="tensorrt-rtx")
    assert stand_in.LOADED == []
    for _ in range(2):
        TensorRtSession(folders["tensorrt"])
        assert [str(folders["tensorrt"] / PLUGIN["file"])] == stand_in.LOADED


def test_a_library_that_the_registry_refuses_is_an_environment_error(folders, monkeypatch):
    pretend(monkeypatch)
    stand_in.LOADED.clear()
    monkeypatch.setattr(stand_in.Registry, "load_library", lambda self, path: None)
    with pytest.raises(EnvironmentMismatchError, match=r"did not take(.|\n)*innerq-export plugin build"):
        TensorRtSession(folders["tensorrt"])


def test_a_plan_that_tensorrt_refuses_is_an_environment_error(folders, tmp_path, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(stand_in.Runtime, "deserialize_cuda_engine", lambda self, content: None)
    with pytest.raises(EnvironmentMismatchError, match=r"refuses(.|\n)*model\.engine(.|\n)*innerq-export doctor"):
        TensorRtSession(folders["tensorrt"])


def test_too_little_memory_is_said_so(folders, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(stand_in.ICudaEngine, "create_execution_context", lambda self: None)
    with pytest.raises(OutOfMemoryError, match="no execution context"):
        TensorRtSession(folders["tensorrt"])


def test_no_profile_is_named_with_what_there_is(session):
    with pytest.raises(ConfigError, match=r"prefill: batch up to 2, tokens up to 1024(.|\n)*batch 2, tokens 2000"):
        profile_for(session._profiles, 2, 2000)
    assert [profile_for(session._profiles, 1, tokens) for tokens in (1, 2, 1024)] == [1, 0, 0]
    assert [profile_for(session._profiles[:1], 1, tokens) for tokens in (1, 2, 1024)] == [0, 0, 0]


def test_the_session_uses_only_what_tensorrt_and_rtx_have():
    """The stand-in has no attribute that the real classes lack, and it is all that a session can use."""
    real = [pytest.importorskip("tensorrt_lean"), pytest.importorskip("tensorrt_rtx")]
    for name in ("ICudaEngine", "IExecutionContext", "Runtime", "ILogger", "DataType", "TensorIOMode"):
        own = {attribute for attribute in vars(getattr(stand_in, name)) if not attribute.startswith("_")}
        if name == "IExecutionContext":
            own.add("active_optimization_profile")
        for module in real:
            assert own <= set(dir(getattr(module, name))), (module.__name__, name)


def test_the_real_runtime_of_rtx_refuses_in_its_own_words_where_there_is_no_card(tmp_path):
    """The path up to here is real: module, logger, runtime, the mapped plan. A card ends it otherwise."""
    pytest.importorskip("tensorrt_rtx")
    if first_card() is not None:
        pytest.skip("there is a card")
    folder = toy_engine(tmp_path / "engine", backend="tensorrt-rtx")
    record = record_of(read_manifest(folder), "tensorrt-rtx", folder)
    with pytest.raises(EnvironmentMismatchError, match=r"tensorrt_rtx 1\.7(.|\n)*deserializeCudaEngine"):
        Plan(folder, record, "tensorrt-rtx")
