"""Laws of docs/examples/gradio_app.py, with gradio's own server and a real client: requests at once are as requests alone."""

import contextlib
import gc
import itertools
import re
import time

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from test_host_examples import module
from test_left_as_it_was import looks
from test_serving import sharing

import foreseer
from foreseer.zoo import load_flux

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio about pandas
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # its server and client leave sockets and loops to the collector
]
PATIENCE = 300
ASKED = [  # prompt, policy, options, steps, seed
    ("0", "taylorseer", "interval=3", 6, 0),
    ("1", "reuse", "interval=2", 5, 1),
    ("2", "none", "", 4, 2),
]


@pytest.fixture(scope="module")
def flux():
    pipe = load_flux()
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt="0", num_inference_steps=1)  # a call leaves numbers behind on a pipeline
    return pipe


@contextlib.contextmanager
def running(pipes):
    """The address of a server that runs in this process, and its app."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # asks nobody outside
        patch.setenv("HF_HUB_OFFLINE", "1")
        app = module("gradio_app").build(pipes)
        _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        try:
            yield address, app
        finally:
            app.close(verbose=False)
            gc.collect()


def client(address):
    from gradio_client import Client

    return Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE})


def ask(who, asked):
    return who.submit(*asked, api_name="/draw")


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
    return np.asarray(image), "\n\n".join(map(str, attached.reports.values()))


def timeless(text):
    """A report's text without what a clock says."""
    flat = re.sub(r"[\s─]+", " ", " ".join(line for line in text.splitlines() if not line.strip().startswith("time ")))
    return re.sub(r" [\d.,]+ (?=computed|forecast)", " ", flat)


def hold(answers, pipe):
    for asked, answer in zip(ASKED, answers, strict=False):
        image, text = shown(answer)
        expected, report = alone(pipe, asked)
        assert np.array_equal(image, expected)
        assert timeless(text) == timeless(report)


def test_requests_at_once_are_as_requests_alone(flux):
    """Law: each has its own policy, image, report and timeline, on two pipelines that share weights; who writes a wrong option is told alone."""
    from gradio_client.exceptions import AppError

    both = [flux, sharing(flux)]
    before = [looks(pipe) for pipe in both]
    with running(both) as (address, _):
        one, other = client(address), client(address)
        wrong = ask(other, ("0", "taylorseer", "interval=0", 4, 0))
        jobs = [ask(who, asked) for who, asked in zip((one, other, one), ASKED, strict=True)]
        answers = [job.result(timeout=PATIENCE) for job in jobs]
        with pytest.raises(AppError, match=r"interval=0.*write"):
            wrong.result(timeout=PATIENCE)
    assert {job.outputs()[0][1] for job in jobs} == {f"step 1 of {steps}" for *_, steps, _ in ASKED}
    assert [looks(pipe) for pipe in both] == before
    hold(answers, flux)


def until(told):
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def leave(address, asked, when):
    """A browser that is closed: the connection ends when the server has said this."""
    asking = {"data": list(asked), "fn_index": 0, "session_hash": when}
    with httpx.Client(base_url=f"{address}gradio_api", timeout=PATIENCE) as browser:
        assert browser.post("/queue/join", json=asking).status_code == 200
        with browser.stream("GET", "/queue/data", params={"session_hash": when}) as stream:
            next(line for line in stream.iter_lines() if when in line)


def test_requests_that_end_early_stop_the_work_and_leave_nothing(flux):
    """Law: cancelled or left, it ends before its last step; left in line it makes none; the next is answered as if there had been none."""
    times = []

    def slowly(module, args, kwargs):
        times.append(float(kwargs["timestep"].flatten()[0]))
        time.sleep(0.5)

    def ended():
        """One generation was begun, it was not finished, and nothing is attached any more."""
        until(lambda: not [part for part in vars(flux.scheduler).values() if callable(part)])
        assert all(later <= earlier for earlier, later in itertools.pairwise(times))
        assert 0 < len(times) < 50
        times.clear()

    before = looks(flux)
    with running([flux]) as (address, app):
        one = client(address)
        handle = flux.transformer.register_forward_pre_hook(slowly, with_kwargs=True)
        job = ask(one, ("9", "none", "", 50, 0))
        until(lambda: times and job.outputs())
        leave(address, ("8", "none", "", 50, 0), "estimation")  # its place in line
        until(lambda: not len(app._queue))
        assert job.cancel()
        ended()
        leave(address, ("7", "none", "", 50, 0), "step 1 of 50")
        ended()
        handle.remove()
        answer = ask(one, ASKED[0]).result(timeout=PATIENCE)
    assert looks(flux) == before
    hold([answer], flux)
