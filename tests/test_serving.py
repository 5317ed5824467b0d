"""Laws of serving, with programs of docs/examples, a real server and a real client: requests at once are as requests alone."""

import asyncio
import base64
import contextlib
import io
import json
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
POLICIES = {"exact": "none", "fast": POLICY, "reuse": "reuse:interval=2"}
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


class Address(str):
    """Where a server is."""

    def __new__(cls, text, server):
        address = super().__new__(cls, text)
        address.server = server
        return address


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
        yield Address(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/images", server)
    finally:
        server.should_exit = True
        thread.join(60)


def ask_all(address, asked):
    """The answers to requests that are sent at once."""

    async def send():
        async with httpx.AsyncClient(timeout=300) as client:
            return await asyncio.gather(*(client.post(address, params=each) for each in asked))

    return asyncio.run(send())


def alone(pipe, asked, policy=POLICY):
    """The image, and the steps that are computed, of a call without a server."""
    with foreseer.attach(pipe, policy) as attached:
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
            async with httpx.AsyncClient(timeout=300) as client:
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


class Slowly:
    """Makes steps of a model slow, and counts them."""

    def __init__(self, model):
        self.steps, self.begun = 0, threading.Event()
        self.handle = model.register_forward_pre_hook(self.wait)

    def wait(self, *_):
        self.steps += 1
        self.begun.set()
        time.sleep(0.03)


@pytest.mark.parametrize("name", ["serving", "streaming"])
def test_who_leaves_while_waiting_in_line_costs_nothing(flux, name):
    """Law: not a step is made for it, and the line goes on."""
    app = module("serving").serve([flux], "none") if name == "serving" else module("streaming").serve([flux], POLICIES)

    async def send(address):
        async with httpx.AsyncClient(timeout=300) as client:
            first = asyncio.create_task(client.post(address, params={"prompt": "1", "steps": 12, "policy": "exact"}))
            await asyncio.to_thread(slow.begun.wait, 300)
            leaves = asyncio.create_task(client.post(address, params={"prompt": "9", "steps": 100, "policy": "exact"}))
            await asyncio.sleep(0.2)
            last = asyncio.create_task(client.post(address, params={"prompt": "2", "steps": 3, "policy": "exact"}))
            await asyncio.sleep(0.1)
            leaves.cancel()
            return [(await each).status_code for each in (first, last)]

    before, slow = looks(flux), Slowly(flux.transformer)
    with running(app) as address:
        assert asyncio.run(send(address)) == [200, 200]
    slow.handle.remove()
    assert looks(flux) == before
    assert slow.steps == 12 + 3


@pytest.mark.parametrize("name", ["serving", "streaming"])
def test_a_server_that_is_stopped_answers_the_request_under_way_and_leaves_the_pipeline_as_it_was(flux, name):
    app = module("serving").serve([flux], POLICY) if name == "serving" else module("streaming").serve([flux], POLICIES)
    before, slow = looks(flux), Slowly(flux.transformer)
    with running(app) as address:

        async def send():
            async with httpx.AsyncClient(timeout=300) as client:
                request = asyncio.create_task(client.post(address, params={"prompt": "1", "steps": 6, "policy": "exact"}))
                await asyncio.to_thread(slow.begun.wait, 300)
                address.server.should_exit = True
                return await request

        answer = asyncio.run(send())
    slow.handle.remove()
    assert looks(flux) == before
    assert json.loads(answer.text.splitlines()[-1])["report"]["finished"]


def test_requests_choose_a_policy_and_are_told_of_each_step(flux):
    """Law: each gets the steps, the image and the report of its own policy; one that does not exist is refused."""
    asked = [{"policy": name, **each} for name, each in zip(("fast", "exact", "fast", "reuse"), ASKED, strict=True)]
    before = looks(flux)
    with running(module("streaming").serve([flux], POLICIES)) as address:
        answers = ask_all(address, [*asked, {"prompt": "1", "policy": "taylorseer:interval=2"}])
    assert looks(flux) == before
    assert answers.pop().status_code == 422
    for request, answer in zip(asked, answers, strict=True):
        *told, last = map(json.loads, answer.text.splitlines())
        assert told == [{"step": step + 1, "steps": request["steps"]} for step in range(request["steps"])]
        image, computed = alone(flux, request, POLICIES[request["policy"]])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(last["image"])))), image)
        assert (last["report"]["policy"], last["report"]["full_steps"], last["report"]["finished"]) == (POLICIES[request["policy"]], computed, True)


def test_a_policy_that_is_refused_harms_no_later_request(flux):
    """Law: the next request for the policy of before gets the report of its own call."""
    with running(module("streaming").serve([flux], POLICIES | {"wrong": "taylorseer:intervall=2"})) as address:
        for name, steps in (("exact", 6), ("wrong", 7), ("exact", 8)):
            with contextlib.suppress(httpx.HTTPError):
                (answer,) = ask_all(address, [{"prompt": "1", "steps": steps, "policy": name}])
    assert json.loads(answer.text.splitlines()[-1])["report"]["num_steps"] == 8


def test_who_leaves_in_the_middle_of_its_steps_ends_them(flux):
    before = looks(flux)
    with running(module("streaming").serve([flux], POLICIES)) as address:
        slow = Slowly(flux.transformer)
        with httpx.Client(timeout=300) as client:
            with client.stream("POST", address, params={"prompt": "9", "steps": 100, "policy": "exact"}) as stream:
                assert json.loads(next(stream.iter_lines())) == {"step": 1, "steps": 100}
        (answer,) = ask_all(address, [{"prompt": "1", "steps": 3, "policy": "exact"}])
        slow.handle.remove()
    assert looks(flux) == before
    assert slow.steps < 60
    assert json.loads(answer.text.splitlines()[-1])["report"]["num_steps"] == 3


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
