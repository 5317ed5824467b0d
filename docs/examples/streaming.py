"""A policy for each request, and its progress: `serve([pipe], {"exact": "none", "fast": "taylorseer"})`."""

import asyncio
import base64
import io
import json
from contextlib import asynccontextmanager
from threading import Event
from typing import Literal

import torch
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import foreseer


class Lane:
    """A pipeline, under one policy after another."""

    def __init__(self, pipe):
        self.pipe, self.policy, self.attached = pipe, None, None

    def draw(self, tell, gone, policy, prompt, seed, steps):
        """Draw, in a thread. Tells of each step, then of image and report, then None."""

        def step(pipe, index, time, tensors):
            tell({"step": index + 1, "steps": steps})
            if gone.is_set():
                raise InterruptedError("who asked has left")
            return tensors

        try:
            if policy != self.policy:  # who asks for the same as the last has it attached already
                foreseer.detach(self.pipe)
                self.policy = None  # nothing is attached where the next line raises
                self.attached, self.policy = foreseer.attach(self.pipe, policy), policy
            seeded = torch.Generator().manual_seed(seed)
            image = self.pipe(prompt=prompt, num_inference_steps=steps, generator=seeded, callback_on_step_end=step).images[0]
            image.save(png := io.BytesIO(), format="png")
            tell({"image": base64.b64encode(png.getvalue()).decode(), "report": self.attached.report.to_dict()})
        except InterruptedError:
            pass
        finally:
            tell(None)


def serve(pipes, policies):
    """Make an app over pipelines that are alike; requests choose one of the named policies."""
    free = asyncio.Queue()

    @asynccontextmanager
    async def lanes(app):
        for pipe in pipes:
            free.put_nowait(Lane(pipe))
        yield
        for _ in pipes:  # a generation under way comes to its end first
            foreseer.detach((await free.get()).pipe)

    app = FastAPI(lifespan=lanes)

    async def lines(*asked):
        lane, told, gone = await free.get(), asyncio.Queue(), Event()  # the line
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, lane.draw, lambda line: loop.call_soon_threadsafe(told.put_nowait, line), gone, *asked)
        work.add_done_callback(lambda _: free.put_nowait(lane))  # not before its thread has ended
        try:
            while (line := await told.get()) is not None:
                yield json.dumps(line) + "\n"
            await work  # what it raised ends the answer too
        finally:  # also where the client has left, and this is cancelled
            gone.set()

    @app.post("/images")
    async def images(prompt: str, policy: Literal[tuple(policies)], seed: int = 0, steps: int = 28):
        return StreamingResponse(lines(policies[policy], prompt, seed, steps), media_type="application/x-ndjson")

    return app
