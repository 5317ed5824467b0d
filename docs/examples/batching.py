"""Requests in one batch, each at its own step: `uvicorn --app-dir docs/examples --factory batching:bundled`."""

import asyncio
import base64
import io
import threading
import time
from contextlib import asynccontextmanager
from typing import Literal

import samplers
from fastapi import FastAPI, Query, Request, Response

from foreseer.adapters.batching import Batch
from foreseer.adapters.serving import Served
from foreseer.errors import OptionError


def serve(models, policies, *, in_flight=16, line=64):
    """Make an app over models, by name a denoiser and how it is sampled. Requests choose one of them and one of
    the named policies. At most `in_flight` hold features, `line` more wait, others are told to come later.
    """
    batches, ended = {}, threading.Event()
    room, bound = asyncio.Semaphore(in_flight), asyncio.Semaphore(in_flight + line)

    def tick(batch):
        with batch:  # whatever ends this thread ends its requests
            while not ended.is_set():
                batch.tick(wait=0.1)

    @asynccontextmanager
    async def ticking(app):
        batches.update({name: Batch(model, linger=0.05) for name, (model, _) in models.items()})
        ticks = [asyncio.create_task(asyncio.to_thread(tick, batch)) for batch in batches.values()]
        yield  # until the requests under way are answered
        ended.set()
        await asyncio.gather(*ticks)

    app = FastAPI(lifespan=ticking)

    @app.post("/images")
    async def images(
        client: Request,
        model: Literal[tuple(models)],
        policy: Literal[tuple(policies)],
        prompt: str,
        seed: int = 0,
        steps: int = Query(20, ge=1, le=100),
        size: int | None = Query(None, ge=8, le=32, multiple_of=4),
    ):
        if bound.locked():
            return Response(status_code=503, headers={"retry-after": "1"})
        came = time.perf_counter()
        async with bound, room:  # the line
            waited = time.perf_counter() - came
            sampling = models[model][1](prompt, seed, steps, size)
            try:
                times = await asyncio.to_thread(next, sampling)  # a text encoder takes its time
            except OptionError as wrong:
                return Response(str(wrong), status_code=422)
            with batches[model].join(policies[policy], timesteps=times) as request:
                wants = next(sampling)
                while isinstance(wants, dict):
                    if await client.is_disconnected():
                        return Response(status_code=499)
                    outputs = [asyncio.wrap_future(request.stream(name)(**call)) for name, call in wants.items()]
                    wants = sampling.send(await asyncio.gather(*outputs))
        image = await asyncio.to_thread(wants)  # the request has left: nobody waits for its decoder
        image.save(png := io.BytesIO(), format="png")
        took, report = time.perf_counter() - came, str(Served(prompt, request.reports))
        return {"image": base64.b64encode(png.getvalue()).decode(), "report": report, "waited": waited, "took": took}

    return app


def bundled():
    """Serve the miniatures that come with foreseer."""
    return serve(samplers.bundled(), {"exact": "none", "fast": "taylorseer:interval=4,target=last_block", "careful": "agreement"})
