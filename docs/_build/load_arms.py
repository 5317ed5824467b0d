"""The servers that `load_test.py` compares, each in a process of its own, behind one and the same route.

*In flight* is `docs/examples/batching.py` as it is. *Static* collects requests, draws them as one batch to its
end, as the model or the pipeline is called without foreseer's batching, and collects again meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
import uvicorn
from fastapi import FastAPI, Response
from PIL import Image

import foreseer
from foreseer.zoo import load_dit, load_flux
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps

__all__ = ["ARMS", "CACHE", "COLLECT", "LINE", "MODELS", "TOGETHER", "Arm", "Asked", "draw_dit", "draw_flux", "run"]

MODELS = ("dit", "flux")
CACHE = "taylorseer:interval=4,target=last_block"
TOGETHER = 16
"""Most requests in a batch, in every arm."""
LINE = 32
"""Most requests that wait; one more is refused."""
COLLECT = 0.1
"""Seconds that a static batch waits for others after its first, where nothing else is being drawn."""


@attrs.frozen
class Arm:
    """One way to serve.

    Attributes:
        batching: ``"static"`` or ``"in flight"``.
        policy: Of every request.
    """

    batching: Literal["static", "in flight"]
    policy: str

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.batching}, {'no cache' if self.policy == 'none' else 'cache'}"


ARMS = (Arm("static", "none"), Arm("static", CACHE), Arm("in flight", "none"), Arm("in flight", CACHE))


@attrs.frozen
class Asked:
    """What a request asks for, but for the number of steps, which all of one test have in common."""

    prompt: str
    seed: int


Draw = Callable[[Sequence[Asked], int], list[Image.Image]]


@torch.no_grad()
def draw_dit(model: Any, attached: Any, asked: Sequence[Asked], steps: int) -> list[Image.Image]:
    """Draw a batch by the zoo's DDIM; with a policy, where one is attached."""
    noise = torch.cat([torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(each.seed)) for each in asked])
    labels, times = torch.tensor([int(each.prompt) for each in asked]), ddim_timesteps(steps)
    if attached is None:
        images = ddim_sample(model, noise, labels, times)
    else:
        with attached.run(timesteps=times, groups=len(asked)):
            images = ddim_sample(model, noise, labels, times)
    return [Image.fromarray(((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().numpy()) for image in images]


def draw_flux(pipe: Any, asked: Sequence[Asked], steps: int) -> list[Image.Image]:
    """Draw a batch by diffusers' pipeline."""
    generators = [torch.Generator().manual_seed(each.seed) for each in asked]
    images: list[Image.Image] = pipe(prompt=[each.prompt for each in asked], num_inference_steps=steps, generator=generators).images
    return images


def drawing(model: str, policy: str) -> Draw:
    """Load a model, and return what draws a batch with it; ``none`` attaches nothing."""
    if model == "dit":
        dit = load_dit()
        attached = None if policy == "none" else foreseer.attach(dit, policy)
        return lambda asked, steps: draw_dit(dit, attached, asked, steps)
    pipe = load_flux()
    pipe.set_progress_bar_config(disable=True)
    if policy != "none":
        foreseer.attach(pipe, policy)
    return lambda asked, steps: draw_flux(pipe, asked, steps)


def static(draw: Draw) -> FastAPI:
    """Make an app that draws static batches."""
    line: asyncio.Queue[tuple[Asked, int, asyncio.Future[Image.Image]]] = asyncio.Queue(LINE)

    async def batches() -> None:
        while True:
            some = [await line.get()]
            until = time.perf_counter() + COLLECT
            while len(some) < TOGETHER and (left := until - time.perf_counter()) > 0:
                try:
                    some.append(line.get_nowait() if line.qsize() else await asyncio.wait_for(line.get(), left))
                except TimeoutError:
                    break
            some += [line.get_nowait() for _ in range(min(TOGETHER - len(some), line.qsize()))]
            images = await asyncio.to_thread(draw, [asked for asked, _, _ in some], some[0][1])
            for (_, _, future), image in zip(some, images, strict=True):
                if not future.done():  # cancelled, where its client has left
                    future.set_result(image)

    @asynccontextmanager
    async def drawn(app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(batches())
        yield
        work.cancel()

    app = FastAPI(lifespan=drawn)

    @app.post("/images")
    async def images(prompt: str, seed: int, steps: int) -> Any:
        future: asyncio.Future[Image.Image] = asyncio.get_running_loop().create_future()
        try:
            line.put_nowait((Asked(prompt, seed), steps, future))
        except asyncio.QueueFull:
            return Response(status_code=503)
        image = await future
        image.save(png := io.BytesIO(), format="png")
        return {"image": base64.b64encode(png.getvalue()).decode()}

    return app


def in_flight(model: str, policy: str) -> FastAPI:
    """Make the app of `docs/examples/batching.py`, for one model and one policy."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    batching, samplers = (importlib.import_module(name) for name in ("batching", "samplers"))
    app: FastAPI = batching.serve({model: samplers.bundled()[model]}, {policy: policy}, in_flight=TOGETHER, line=LINE)
    return app


def run(listening: socket.socket, model: str, arm: Arm) -> None:
    """Serve until a signal says to stop, and tell at ``/processor`` the processor's seconds so far. One thread is
    the model's.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test ends its servers itself
    app = static(drawing(model, arm.policy)) if arm.batching == "static" else in_flight(model, arm.policy)
    app.add_api_route("/processor", lambda: time.process_time())
    uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none")).run(sockets=[listening])
