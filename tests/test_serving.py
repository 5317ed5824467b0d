"""Laws of serving, with docs/examples/serving.py, a real server and a real client: requests at once are as requests alone."""

import asyncio
import base64
import contextlib
import io
import threading
import time

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from test_docs import fences
from test_host_examples import module
from test_left_as_it_was import looks

import foreseer
from foreseer.zoo import load_flux

POLICY = "taylorseer:interval=3"
ASKED = [{"prompt": str(digit), "seed": digit, "steps": 5 + digit} for digit in range(4)]


@pytest.fixture(scope="module")
def serving():
    return module("serving")


@pytest.fixture(scope="module")
def flux():
    pipe = load_flux()
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt="0", num_inference_steps=1)  # a call leaves numbers behind on a pipeline
    return pipe


@contextlib.contextmanager
def running(app):
    """The address of a server that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/images"
    finally:
        server.should_exit = True
        thread.join(60)


def ask_all(address, asked):
    """The answers to requests that are sent at once."""

    async def send():
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(client.post(address, params=each) for each in asked))

    return asyncio.run(send())


def alone(pipe, asked):
    """The image, and the steps that are computed, of a call without a server."""
    with foreseer.attach(pipe, POLICY) as attached:
        image = pipe(prompt=asked["prompt"], num_inference_steps=asked["steps"], generator=torch.Generator().manual_seed(asked["seed"])).images[0]
    return np.asarray(image), attached.report.full_steps


def hold(answers, pipe):
    """Each answer is that of its request, sent alone."""
    for asked, answer in zip(ASKED, answers, strict=True):
        assert answer.status_code == 200
        image, computed = alone(pipe, asked)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["image"])))), image)
        report = answer.json()["report"]
        assert (report["num_steps"], report["full_steps"], report["finished"]) == (asked["steps"], computed, True)


def sharing(pipe):
    """The function of that name on the page."""
    (code,) = [block["code"] for block in fences("docs/serving.md", "python") if "def sharing" in block["code"]]
    names = {"pipe": pipe}
    exec(code, names)
    return names["sharing"](pipe)


def test_requests_at_once_are_as_requests_alone(serving, flux):
    """Law: same images, each its own report, and a pipeline afterwards as it was before."""
    before = looks(flux)
    with running(serving.serve([flux], POLICY)) as address:
        answers = ask_all(address, ASKED)
    assert looks(flux) == before
    hold(answers, flux)


def test_so_they_are_where_two_pipelines_share_weights(serving, flux):
    other = sharing(flux)
    theirs, ours = dict(other.transformer.named_parameters()), dict(flux.transformer.named_parameters())
    assert all(theirs[name] is weight for name, weight in ours.items())
    assert not {*map(id, other.transformer.modules())} & {*map(id, flux.transformer.modules())}
    before = looks(flux), looks(other)
    with running(serving.serve([flux, other], POLICY)) as address:
        answers = ask_all(address, ASKED)
    assert (looks(flux), looks(other)) == before
    hold(answers, flux)


def test_a_request_whose_client_leaves_ends_early_and_leaves_nothing(serving, flux):
    """Law: it stops within a few steps, and the next request is answered as if there had been none."""
    begun, steps = threading.Event(), [0]

    def slowly(*_):
        steps[0] += 1
        begun.set()
        time.sleep(0.03)

    def leave(address):
        async def send():
            async with httpx.AsyncClient(timeout=60) as client:
                request = asyncio.create_task(client.post(address, params={"prompt": "9", "steps": 100}))
                await asyncio.to_thread(begun.wait, 60)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request

        asyncio.run(send())

    with running(serving.serve([flux], POLICY)) as address:
        handle = flux.transformer.register_forward_pre_hook(slowly)
        leave(address)
        answers = ask_all(address, ASKED)
        handle.remove()
    assert steps[0] < 50 + sum(asked["steps"] for asked in ASKED)
    hold(answers, flux)


def test_without_a_line_a_second_request_is_refused_and_told_where_to_read(serving, flux):
    asked, refusals = (threading.Event(), "1", 0, 4), []

    def intrude():
        with pytest.raises(foreseer.ContractError, match=r"one worker or a lock.*docs/serving\.md") as refused:
            serving.generate(flux, attached, *asked)
        refusals.append(refused)

    def another(*_):
        if not refusals:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join(60)

    with foreseer.attach(flux, POLICY) as attached:
        handle = flux.transformer.register_forward_pre_hook(another)
        answer = serving.generate(flux, attached, *asked)
        handle.remove()
    assert len(refusals) == 1
    assert answer["report"]["finished"]


def test_a_second_attachment_to_shared_modules_is_refused(flux):
    second = type(flux)(**flux.components)
    with foreseer.attach(flux, POLICY):
        with pytest.raises(foreseer.ContractError, match="Pipelines that share a model share its policy"):
            foreseer.attach(second, POLICY)
