"""Laws of functions that run in a forked worker, as those of `spaces.GPU` on ZeroGPU do (spaces 0.51.3): arguments and answers are pickled.

One worker serves several calls, each in a thread of its own. ZeroGPU itself needs its GPUs and its scheduler; none of that is here.
"""

import contextlib
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import foreseer
from foreseer.zoo import load_flux

PATIENCE = 300


@pytest.fixture(scope="module")
def flux():
    pipe = load_flux()
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt="0", num_inference_steps=1)
    return pipe


def draw(pipe, policy, seed):
    """As on the page: attached inside, and what the report says is in what is returned."""
    with foreseer.attach(pipe, policy) as attached:
        image = pipe(prompt="3", num_inference_steps=6, generator=torch.Generator().manual_seed(seed)).images[0]
    return image, attached.report, attached.report.plot()


def serve(task, asks, answers):
    while (asked := asks.get()) is not None:
        with ThreadPoolExecutor() as thread:
            try:
                answer = thread.submit(task, *asked).result()
            except foreseer.ForeseerError as error:
                answer = error
        answers.put(pickle.dumps(answer))


@contextlib.contextmanager
def worker(task):
    """A way to call a function in a process that is forked from this one."""
    here = multiprocessing.get_context("fork")
    asks, answers = here.SimpleQueue(), here.Queue()
    process = here.Process(target=serve, args=(task, asks, answers), daemon=True)
    process.start()

    def call(*asked):
        asks.put(asked)
        return pickle.loads(answers.get(timeout=PATIENCE))

    try:
        yield call
        asks.put(None)
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        process.kill()


def test_what_is_returned_from_a_worker_is_what_is_returned_here(flux):
    """Law: image, report and timeline, call after call, each with its own policy; here nothing was attached."""
    asked = [("taylorseer:interval=3", 0), ("reuse:interval=2", 1), ("taylorseer:interval=3", 0)]
    with worker(lambda *given: draw(flux, *given)) as call:
        answers = [call(*each) for each in asked]
    assert not foreseer.detach(flux)
    for each, (image, report, timeline) in zip(asked, answers, strict=True):
        expected, ours, _ = draw(flux, *each)
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert (report.policy, report.full_steps, report.finished) == (ours.policy, ours.full_steps, True)
        assert str(report).splitlines()[0] == str(ours).splitlines()[0]
        assert timeline.get_axes()


def test_an_attachment_made_outside_is_told_of_nothing_that_a_worker_does(flux):
    """The worker has a copy of it. So the report here stays empty, and attaching inside is refused there, in words."""
    with foreseer.attach(flux, "reuse", interval=2) as outside:
        with worker(lambda *given: draw(flux, *given)) as call:
            refused = call("taylorseer:interval=3", 0)
        assert isinstance(refused, foreseer.ContractError)
        assert "has policy reuse:interval=2 attached already" in str(refused)
        with worker(lambda: flux(prompt="3", num_inference_steps=4).images[0]) as call:
            call()
        with pytest.raises(foreseer.ContractError, match="nothing has run yet"):
            _ = outside.report
