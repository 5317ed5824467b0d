"""Laws of `foreseer.detach`: whatever of ours is on a pipeline or model goes, without its handle, and nothing else does."""

import gc
import threading

import pytest
import torch
from test_leaving import TIMES, Net, loop, touched
from test_left_as_it_was import looks
from tiny import TINY

import foreseer

POLICY = "taylorseer:interval=2,max_order=1"
FLUX = TINY["FluxPipeline"]


def hand_lost(target):
    foreseer.attach(target, POLICY)
    gc.collect()


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline:2.2"])
@pytest.mark.parametrize("attached_to", ["pipeline", "model"])
@pytest.mark.parametrize("asked_with", ["pipeline", "model"])
def test_a_lost_attachment_is_taken_off_and_everything_is_as_it_was(name, attached_to, asked_with):
    tiny, pipe = TINY[name], TINY[name].build()
    bare = tiny.call(pipe, steps=3)
    before = looks(pipe)
    assert foreseer.detach(pipe) is False
    hand_lost(pipe if attached_to == "pipeline" else pipe.transformer)
    assert looks(pipe) != before
    assert foreseer.detach(pipe if asked_with == "pipeline" else pipe.transformer) is True
    assert looks(pipe) == before
    assert foreseer.detach(pipe) is False
    assert torch.equal(tiny.call(pipe, steps=3), bare)
    foreseer.attach(pipe, POLICY).detach()


def test_a_pipeline_that_shares_the_model_frees_it():
    pipe = FLUX.build()
    second = type(pipe)(**pipe.components)
    hand_lost(pipe)
    with pytest.raises(foreseer.ContractError, match=r"foreseer\.detach"):
        foreseer.attach(second, POLICY)
    assert foreseer.detach(second)
    foreseer.attach(second, POLICY).detach()


def test_a_model_that_was_exchanged_since_does_not_hide_it():
    pipe, other = FLUX.build(), FLUX.build()
    before = looks(pipe)
    hand_lost(pipe)
    own, pipe.transformer = pipe.transformer, other.transformer
    assert foreseer.detach(pipe)
    pipe.transformer = own
    assert looks(pipe) == before


def test_a_lost_attachment_lives_as_long_as_a_block_leads_to_it():
    """What was put around the model itself is gone, as when it is compiled afterwards; what is around its blocks is not."""
    model = Net()
    hand_lost(model)
    del model._compiled_call_impl
    gc.collect()
    assert touched(model)
    assert foreseer.detach(model)
    assert not touched(model)


def test_others_stay():
    one, two = Net(), Net()
    with foreseer.attach(one, POLICY) as attached:
        hand_lost(two)
        assert foreseer.detach(two)
        with attached.run(timesteps=TIMES):
            loop(one)
    assert attached.report.finished
    assert len(attached.report.full_steps) < len(TIMES)


def test_a_run_in_another_thread_is_left_in_peace():
    pipe, refused = FLUX.build(), []

    def another():
        with pytest.raises(foreseer.ContractError, match="wait until it has ended") as refusal:
            foreseer.detach(pipe)
        refused.append(refusal)

    def after_step(_pipe, step, _time, values):
        if step == 1:
            thread = threading.Thread(target=another)
            thread.start()
            thread.join(60)
        return values

    with foreseer.attach(pipe, POLICY) as attached:
        FLUX.call(pipe, steps=4, callback_on_step_end=after_step)
        assert len(refused) == 1
        assert attached.report.finished
        assert len(attached.report.outcomes) == 4
        assert foreseer.detach(pipe)


def test_so_is_a_run_of_a_bare_model_but_not_that_of_a_thread_that_died():
    model, entered, leave = Net(), threading.Event(), threading.Event()
    attached = foreseer.attach(model, POLICY)

    def inside(abandoned):
        run = attached.run(timesteps=TIMES)
        run.__enter__()
        entered.set()
        leave.wait(60)
        abandoned.append(run)

    abandoned = []
    thread = threading.Thread(target=inside, args=(abandoned,))
    thread.start()
    assert entered.wait(60)
    with pytest.raises(foreseer.ContractError, match="another thread"):
        foreseer.detach(model)
    leave.set()
    thread.join(60)
    assert foreseer.detach(model)
    assert not touched(model)


def test_a_run_in_this_thread_is_ended():
    model = Net()
    attached = foreseer.attach(model, POLICY)
    with attached.run(timesteps=TIMES):
        assert foreseer.detach(model)
        loop(model)
    assert not touched(model)


@pytest.mark.parametrize("what", ["flux", None, object(), 3])
def test_what_is_neither_pipeline_nor_model_is_refused(what):
    with pytest.raises(foreseer.UnsupportedModelError, match=f"cannot detach from a {type(what).__name__}"):
        foreseer.detach(what)


def test_an_attachment_says_what_it_is():
    model = Net()
    attached = foreseer.attach(model, POLICY)
    assert repr(attached) == f"<foreseer.Attachment of {POLICY} on Net; nothing has run yet>"
    with attached.run(timesteps=TIMES):
        loop(model)
    computed = len(attached.report.full_steps)
    attached.detach()
    assert repr(attached) == f"<foreseer.Attachment of {POLICY} detached from Net; {computed} of {len(TIMES)} steps computed in full>"
