"""Laws of docs/examples/batching.py, with a real server and real clients: requests at different steps in one batch are as requests alone."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from test_host_examples import module
from test_left_as_it_was import looks as looks_of
from test_serving import ask_all, running

import foreseer
from foreseer.adapters.serving import Served

POLICIES = {"exact": "none", "fast": "taylorseer:interval=3,target=last_block", "modules": "taylorseer:interval=3", "careful": "agreement"}
LEVELS = 1
"""Of 255: by so much a pixel may be rounded otherwise where a row was computed beside others."""


@pytest.fixture(scope="module")
def samplers():
    return module("samplers")


@pytest.fixture(scope="module")
def models(samplers):
    return samplers.bundled()


@pytest.fixture
def batching(samplers, monkeypatch):
    monkeypatch.setitem(sys.modules, "samplers", samplers)
    return module("batching")


def looks(model):
    """How a model and all modules in it look."""
    return looks_of(SimpleNamespace(components={"model": model}))[1:]


def alone(models, asked):
    """The image, and the line of its report, of the same loop with the policy attached and nobody beside."""
    model, sampler = models[asked["model"]]
    sampling = sampler(asked["prompt"], asked.get("seed", 0), asked["steps"], asked.get("size"))
    with torch.no_grad(), foreseer.attach(model, POLICIES[asked["policy"]]) as attached:
        with attached.generation(timesteps=next(sampling), by_itself=True) as generation:
            wants = next(sampling)
            while isinstance(wants, dict):
                outputs = []
                for name, call in wants.items():
                    with generation.call(stream=name):
                        outputs.append(model(**call))
                wants = sampling.send(outputs)
        return np.asarray(wants()).astype(int), str(Served(asked["prompt"], attached.reports))


def hold(models, asked, answers):
    """Each answer is that of its request, sent alone."""
    for each, answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        image, line = alone(models, each)
        came = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["image"])))).astype(int)
        assert came.shape == image.shape
        assert abs(came - image).max() <= LEVELS
        assert answer.json()["report"] == line
        assert 0 <= answer.json()["waited"] <= answer.json()["took"]


def every(model, count, **more):
    return [
        {"model": model, "policy": list(POLICIES)[index % len(POLICIES)], "prompt": str(index % 10), "seed": index, "steps": 4 + index % 5, **more}
        for index in range(count)
    ]


@pytest.mark.parametrize("model", ["dit", "flux"])
def test_requests_at_once_are_as_requests_alone(batching, models, model):
    """Law: same images to a level of rounding, same decisions, and a model afterwards as it was before."""
    asked, before = every(model, 6), looks(models[model][0])
    with running(batching.serve(models, POLICIES)) as address:
        answers = ask_all(address, asked)
    assert looks(models[model][0]) == before
    hold(models, asked, answers)


def test_sampling_alone_is_as_the_pipeline_samples(samplers, models):
    pipe = models["flux"][1].args[0]
    asked = {"model": "flux", "policy": "modules", "prompt": "4", "seed": 3, "steps": 7}
    with foreseer.attach(pipe, POLICIES["modules"]):
        image = pipe(prompt="4", num_inference_steps=7, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.array_equal(np.asarray(image), alone(models, asked)[0])


def test_sizes_and_lengths_that_differ_are_calls_of_their_own(batching, models, monkeypatch):
    """Law: requests with prompts of other lengths and images of other sizes are joined with their like, and each is as alone."""
    pipe = models["flux"][1].args[0]
    encode = pipe.encode_prompt

    def by_words(prompt, second):
        text, pooled, ids = encode(prompt, second)
        count = len(prompt.split())
        return text.repeat(1, count, 1), pooled, ids.repeat(count, 1)

    monkeypatch.setattr(pipe, "encode_prompt", by_words)
    asked = [
        *every("flux", 2),
        {"model": "flux", "policy": "fast", "prompt": "a handwritten seven", "steps": 6},
        {"model": "flux", "policy": "fast", "prompt": "a handwritten two", "seed": 1, "steps": 8},
        {"model": "flux", "policy": "careful", "prompt": "1", "steps": 5, "size": 24},
        {"model": "flux", "policy": "fast", "prompt": "2", "steps": 7, "size": 24},
        {"model": "dit", "policy": "fast", "prompt": "2", "steps": 5, "size": 12},
    ]
    sizes = []
    handle = models["flux"][0].register_forward_pre_hook(lambda *given: sizes.append(given[2]["hidden_states"].shape[:2]), with_kwargs=True)
    with running(batching.serve(models, POLICIES)) as address:
        answers = ask_all(address, asked)
    handle.remove()
    assert {(2, 64), (2, 144)} <= {tuple(size) for size in sizes}  # joined with their like
    hold(models, asked, answers)


class Slowly:
    """Makes calls of a model slow, and counts their rows."""

    def __init__(self, model):
        self.rows, self.begun = 0, threading.Event()
        self.handle = model.register_forward_pre_hook(self.wait, with_kwargs=True)

    def wait(self, model, args, kwargs):
        self.rows += len(kwargs["hidden_states"])
        self.begun.set()
        time.sleep(0.02)


@pytest.fixture
def slow(models):
    slow = Slowly(models["flux"][0])
    yield slow
    slow.handle.remove()


SHORT = {"model": "flux", "policy": "fast", "prompt": "1", "steps": 5}
LONG = {"model": "flux", "policy": "exact", "prompt": "9", "steps": 100}


def test_who_leaves_is_out_of_the_batch_and_its_place_is_free(batching, models, slow):
    """Law: in its steps or in line; the others are as if it had not been there."""

    async def send(address):
        async with httpx.AsyncClient(timeout=300) as client:
            post = partial(client.post, address)
            leaves = [asyncio.create_task(post(params=LONG)) for _ in range(2)]
            await asyncio.to_thread(slow.begun.wait, 60)
            await asyncio.sleep(0.1)
            stays = asyncio.create_task(post(params=SHORT))  # in line: only two have room
            in_line = asyncio.create_task(post(params=LONG))
            await asyncio.sleep(0.1)
            for each in (*leaves, in_line):
                each.cancel()
            return await stays

    with running(batching.serve(models, POLICIES, in_flight=2)) as address:
        answer = asyncio.run(send(address))
    assert slow.rows < 2 * 60
    assert answer.json()["waited"] > 0.05
    hold(models, [SHORT], [answer])


def test_a_server_that_is_stopped_answers_what_is_under_way_and_leaves_the_model_as_it_was(batching, models, slow):
    async def send(address):
        async with httpx.AsyncClient(timeout=300) as client:
            asked = [asyncio.create_task(client.post(address, params=SHORT)) for _ in range(3)]
            await asyncio.to_thread(slow.begun.wait, 60)
            address.server.should_exit = True
            return await asyncio.gather(*asked)

    before = looks(models["flux"][0])
    with running(batching.serve(models, POLICIES)) as address:
        answers = asyncio.run(send(address))
    assert looks(models["flux"][0]) == before
    hold(models, [SHORT] * 3, answers)


def test_where_the_line_is_full_others_are_told_to_come_later(batching, models):
    with running(batching.serve(models, POLICIES, in_flight=2, line=1)) as address:
        answers = ask_all(address, [SHORT] * 6)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 3
    assert {answer.headers.get("retry-after") for answer in answers} == {None, "1"}


def test_what_is_wrong_with_a_request_is_said_and_harms_no_other(batching, models):
    wrong = [{**SHORT, **change} for change in ({"prompt": "one or two"}, {"policy": "taylorseer"}, {"steps": 0}, {"size": 9}, {"model": "sd"})]
    with running(batching.serve(models, POLICIES)) as address:
        answers = ask_all(address, [*wrong, SHORT])
    hold(models, [SHORT], [answers.pop()])
    assert {answer.status_code for answer in answers} == {422}
    assert "names 2 digits" in answers[0].text


def test_the_server_that_is_named_in_the_program_starts(batching):
    assert batching.__doc__ is not None
    factory = re.search(r"--factory batching:(\w+)", batching.__doc__)
    assert factory is not None
    with running(getattr(batching, factory[1])()) as address:
        answers = ask_all(address, [{**SHORT, "policy": "careful"}])
    assert answers[0].status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_thread_that_ticks_ends_nobody_waits_for_ever(batching, models, monkeypatch):
    """Law: what is under way and what comes later fails at once."""
    ticks = []

    class Failing(batching.Batch):
        def tick(self, wait=0.0):
            ticks.append(super().tick(wait))
            if sum(ticks) > 3:
                raise MemoryError("of the test")
            return ticks[-1]

    monkeypatch.setattr(batching, "Batch", Failing)
    before = looks(models["flux"][0])
    with running(batching.serve({"flux": models["flux"]}, POLICIES)) as address:
        (under_way,) = ask_all(address, [LONG])
        (later,) = ask_all(address, [SHORT])
    assert (under_way.status_code, later.status_code) == (500, 500)
    assert looks(models["flux"][0]) == before
