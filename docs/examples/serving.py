"""Pipelines behind FastAPI, in a line: `uvicorn --app-dir docs/examples --factory serving:bundled`."""

import asyncio
import base64
import io
from contextlib import ExitStack, asynccontextmanager
from threading import Event

import torch
from fastapi import FastAPI, Request, Response

import foreseer


class GoneError(Exception):
    """Who asked has left."""


def serve(pipes, policy):
    """Make an app over pipelines that are alike; each draws for one request at a time."""
    free = asyncio.Queue()

    @asynccontextmanager
    async def attached(app):
        with ExitStack() as stack:
            for pipe in pipes:
                free.put_nowait((pipe, stack.enter_context(foreseer.attach(pipe, policy))))
            yield
            for _ in pipes:  # a generation under way comes to its end first
                await free.get()

    app = FastAPI(lifespan=attached)

    @app.post("/images")
    async def images(request: Request, prompt: str, seed: int = 0, steps: int = 28):
        pipe, attachment = await free.get()  # the line
        if await request.is_disconnected():  # while it waited
            free.put_nowait((pipe, attachment))
            return Response(status_code=499)
        gone = Event()
        work = asyncio.create_task(asyncio.to_thread(generate, pipe, attachment, gone, prompt, seed, steps))
        work.add_done_callback(lambda _: free.put_nowait((pipe, attachment)))  # not before its thread has ended
        try:
            while not work.done():
                if await request.is_disconnected():
                    gone.set()
                await asyncio.wait([work], timeout=0.1)
            return work.result()
        except GoneError:
            return Response(status_code=499)
        finally:
            gone.set()

    return app


def generate(pipe, attachment, gone, prompt, seed, steps):
    """Draw, in a thread: an image, and the report of this call."""

    def go_on(pipe, step, time, tensors):
        if gone.is_set():
            raise GoneError
        return tensors

    seeded = torch.Generator().manual_seed(seed)
    image = pipe(prompt=prompt, num_inference_steps=steps, generator=seeded, callback_on_step_end=go_on).images[0]
    image.save(png := io.BytesIO(), format="png")
    return {"image": base64.b64encode(png.getvalue()).decode(), "report": attachment.report.to_dict()}


def bundled():
    """Serve the miniature that comes with foreseer."""
    from foreseer.zoo import load_flux

    return serve([load_flux()], "taylorseer:interval=3")
