"""Load-tests servers of the bundled models: static batches and requests in flight, without a cache and with one.

    python docs/_build/load_test.py dit --out docs/results/load_dit.json
    python docs/_build/load_test.py flux --out docs/results/load_flux.json
    python docs/_build/load_picture.py

Each arm's server runs in a process of its own, with one thread for the model. The client sends requests at
Poisson's random moments, the same in every arm, at one rate after another, and holds what comes against the same
request computed in full without a server. Nothing else should run meanwhile: what did is in the file.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import load_arms
import numpy as np
import torch
from load_arms import ARMS, MODELS, Arm, Asked
from numpy.typing import NDArray
from PIL import Image

from foreseer.psnr import BEST_PSNR, decibels
from foreseer.bench.machine import git_state, machine, versions

STEPS = 20
FLOOR = 30.0
"""Decibels that an image must reach to count as good."""


@attrs.frozen
class Load:
    """What is sent to the servers of a model.

    Attributes:
        rates: Requests a second.
        seconds: For how long at each rate.
        limit: Seconds after which an answer is too late to count as good.
    """

    rates: Sequence[float]
    seconds: float
    limit: float


LOADS = {"dit": Load((1, 2, 4, 7), 12.0, 5.0), "flux": Load((3, 8, 14, 21), 10.0, 2.0)}
"""From half of what static batches without a cache can do to three times that. The limits are about eight times what
a request takes alone, computed in full.
"""


@attrs.frozen
class Answer:
    """What came of a request: the HTTP status, the seconds that it took, and the body."""

    status: int
    latency: float
    body: bytes = attrs.field(repr=False)

    def image(self) -> Image.Image:
        """Return the image in it."""
        return Image.open(io.BytesIO(base64.b64decode(json.loads(self.body)["image"])))


@attrs.frozen
class Sent:
    """What came of all: the answers, the seconds until the last, and the processor's seconds of the server."""

    answers: Sequence[Answer]
    took: float
    processor: float


def moments(rate: float, seconds: float) -> list[float]:
    """Return when requests are sent: the same for every arm."""
    draw, at, found = random.Random(f"load {rate}"), 0.0, []
    while (at := at + draw.expovariate(rate)) < seconds:
        found.append(at)
    return found


def asked(count: int) -> list[Asked]:
    """Return the first requests."""
    return [Asked(str(index % 10), index) for index in range(count)]


def references(model: str, count: int) -> list[NDArray[np.float64]]:
    """Return the images of the first requests, computed in full without a server."""
    draw, found = load_arms.drawing(model, "none"), list[NDArray[np.float64]]()
    for start in range(0, count, load_arms.TOGETHER):
        found += [_pixels(image) for image in draw(asked(count)[start : start + load_arms.TOGETHER], STEPS)]
    return found


def psnr(image: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the PSNR of 8-bit pixels, dB, as it counts in means."""
    return float(min(BEST_PSNR, decibels(np.mean(((image - reference) / 127.5) ** 2, keepdims=True).ravel())[0]))


@contextlib.contextmanager
def serving(model: str, arm: Arm) -> Iterator[str]:
    """Run the server of an arm. Gives its address; requests may be sent before it has started."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        port = listening.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(target=load_arms.run, args=(listening, model, arm))
        process.start()
    try:  # the server alone has the socket now: without it requests fail
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join(60)


async def send(address: str, model: str, arm: Arm, at: Sequence[float]) -> Sent:
    """Send requests at these moments."""
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def one(moment: float, what: Asked) -> Answer:
            await asyncio.sleep(began + moment - time.perf_counter())
            sent = time.perf_counter()
            params = {"model": model, "policy": arm.policy, "prompt": what.prompt, "seed": what.seed, "steps": STEPS}
            answer = await client.post("/images", params=params)
            return Answer(answer.status_code, time.perf_counter() - sent, answer.content)

        used = float((await client.get("/processor")).text)
        began = time.perf_counter()
        answers = await asyncio.gather(*map(one, at, asked(len(at))))
        took = time.perf_counter() - began
        return Sent(answers, took, float((await client.get("/processor")).text) - used)


def measured(sent: Sent, truth: Sequence[NDArray[np.float64]], limit: float) -> dict[str, Any]:
    """Sum up what was answered.

    Returns:
        ``sent``, ``refused``: Requests. ``latency``, ``psnr``: Of each that was answered, seconds and dB.
        ``throughput``: Answered per second, from the first moment to the last answer; ``goodput``: those of them
        in time and good. ``p50``, ``p95``: Seconds. ``processor``: The server's seconds for each that was answered.
    """
    if unknown := {each.status for each in sent.answers} - {200, 503}:
        raise RuntimeError(f"the server answered with {sorted(unknown)}")
    there = [(each, reference) for each, reference in zip(sent.answers, truth, strict=False) if each.status == 200]
    latency = [each.latency for each, _ in there]
    quality = [psnr(_pixels(each.image()), reference) for each, reference in there]
    good = sum(late <= limit and reached >= FLOOR for late, reached in zip(latency, quality, strict=True))
    return {
        "sent": len(sent.answers),
        "refused": len(sent.answers) - len(there),
        "throughput": len(there) / sent.took,
        "goodput": good / sent.took,
        "p50": float(np.percentile(latency, 50)),
        "p95": float(np.percentile(latency, 95)),
        "processor": sent.processor / len(there),
        "latency": [round(late, 3) for late in latency],
        "psnr": [round(reached, 1) for reached in quality],
    }


def _pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def test(model: str, load: Load) -> list[dict[str, Any]]:
    """Test every arm at every rate: at one rate each arm in turn, so that what else runs is much the same for all."""
    most = max(len(moments(rate, load.seconds)) for rate in load.rates)
    truth, lines = references(model, most), []
    with contextlib.ExitStack() as stack:
        addresses = {arm: stack.enter_context(serving(model, arm)) for arm in ARMS}
        for arm, address in addresses.items():  # loaded, and what is examined first is known
            asyncio.run(send(address, model, arm, [0.0] * load_arms.TOGETHER))
        for rate in load.rates:
            for arm, address in addresses.items():
                load_before = os.getloadavg()[0]
                found = measured(asyncio.run(send(address, model, arm, moments(rate, load.seconds))), truth, load.limit)
                lines.append({"batching": arm.batching, "policy": arm.policy, "rate": rate, "load_before": load_before, **found})
                told = ", ".join(f"{key} {found[key]:.2f}" for key in ("throughput", "goodput", "p50", "p95", "processor"))
                print(f"{arm.name:20} {rate:4g}/s  {told}, {found['refused']} refused", flush=True)
    return lines


def main(model: str, out: Path) -> None:
    """Test the servers of a model, and write the file."""
    torch.set_num_threads(1)
    load = LOADS[model]
    settings = {"steps": STEPS, "floor": FLOOR, "together": load_arms.TOGETHER, "line": load_arms.LINE, "collect": load_arms.COLLECT, **attrs.asdict(load)}
    content = {"machine": machine("cpu"), "versions": versions(), "git": git_state(), "model": model, "settings": settings, "lines": test(model, load)}
    out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    main(given.model, given.out)
