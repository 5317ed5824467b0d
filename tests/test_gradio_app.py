"""Laws of docs/examples/gradio_app.py, with gradio's own server and a real client: requests at once are as requests alone."""

import contextlib
import re
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_host_examples import module
from test_left_as_it_was import looks
from test_serving import sharing

import foreseer
from foreseer.zoo import load_flux

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio about pandas
ASKED = [  # prompt, policy, options, steps, seed
    ("0", "taylorseer", "interval=3", 9, 0),
    ("1", "reuse", "interval=2", 6, 1),
    ("2", "none", "", 5, 2),
    ("3", "taylorseer", "interval=4,target=output", 12, 3),
]


@pytest.fixture(scope="module")
def flux():
    pipe = load_flux()
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt="0", num_inference_steps=1)  # a call leaves numbers behind on a pipeline
    return pipe


@contextlib.contextmanager
def running(pipes):
    """A way to new clients of a server that runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # asks nobody outside
        patch.setenv("HF_HUB_OFFLINE", "1")
        from gradio_client import Client

        app = module("gradio_app").build(pipes)
        _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        try:
            yield lambda: Client(address, verbose=False)
        finally:
            app.close(verbose=False)


def ask(client, asked):
    return client.submit(*asked, api_name="/draw")


def shown(answer):
    """The image of an answer as numbers, and its report."""
    image, text, timeline = answer
    assert timeline["plot"].startswith("data:image/")
    return np.asarray(Image.open(image)), text


def alone(pipe, asked):
    """The same without a server."""
    prompt, policy, options, steps, seed = asked
    with foreseer.attach(pipe, f"{policy}:{options}" if options else policy) as attached:
        image = pipe(prompt=prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed)).images[0]
    return np.asarray(image), f"model: {attached.report}"


def timeless(text):
    """A report's text without what a clock says."""
    return re.sub(r"[\d.,]+ ?(ms|s)\b", "", text)


def hold(answers, pipe):
    for asked, answer in zip(ASKED, answers, strict=True):
        image, text = shown(answer)
        expected, report = alone(pipe, asked)
        assert np.array_equal(image, expected)
        assert timeless(text) == timeless(report)


@pytest.mark.parametrize("pipes", [1, 2])
def test_requests_at_once_are_as_requests_alone(flux, pipes):
    """Law: each its own policy, image, report and timeline; on one pipeline, and on two that share weights at once."""
    both = [flux, sharing(flux)][:pipes]
    before = [looks(pipe) for pipe in both]
    with running(both) as client:
        jobs = [ask(client(), asked) for asked in ASKED]
        answers = [job.result(timeout=120) for job in jobs]
        assert {text for job in jobs for _, text, _ in job.outputs()[:1]} == {f"step 1 of {steps}" for *_, steps, _ in ASKED}
    assert [looks(pipe) for pipe in both] == before
    hold(answers, flux)


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_a_request_that_ends_early_stops_the_work_and_leaves_nothing(flux, how):
    """Law: the generation ends within a few steps, one that waits in line makes none, and the next are answered as if there were none."""
    steps, seen = [0], threading.Event()

    def slowly(*_):
        steps[0] += 1
        seen.set()
        time.sleep(0.05)

    before = looks(flux)
    with running([flux]) as client:
        first, second = client(), client()
        handle = flux.transformer.register_forward_pre_hook(slowly)
        job = ask(first, ("9", "none", "", 50, 0))
        assert seen.wait(60)
        waiting = ask(second, ("8", "none", "", 50, 0))
        while not list(job.outputs()):
            time.sleep(0.01)
        if how == "cancelled":
            assert job.cancel()
            waiting.cancel()
        else:
            first.close()
            second.close()
        deadline = time.monotonic() + 60
        while foreseer.detach(flux) or looks(flux)[0] != before[0]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        handle.remove()
        assert steps[0] < 40
        answers = [ask(client(), asked).result(timeout=120) for asked in ASKED[:2]]
    assert looks(flux) == before
    for asked, answer in zip(ASKED, answers, strict=False):
        assert np.array_equal(shown(answer)[0], alone(flux, asked)[0])


def test_a_wrong_option_is_shown_to_who_wrote_it_and_to_nobody_else(flux):
    from gradio_client.exceptions import AppError

    with running([flux]) as client:
        wrong, right = ask(client(), ("0", "taylorseer", "interval=0", 4, 0)), ask(client(), ASKED[0])
        with pytest.raises(AppError, match=r"interval=0.*write"):
            wrong.result(timeout=60)
        assert np.array_equal(shown(right.result(timeout=60))[0], alone(flux, ASKED[0])[0])
