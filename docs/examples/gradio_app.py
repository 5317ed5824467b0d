"""An app whose users choose the policy: `python docs/examples/gradio_app.py`."""

from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Event

import gradio as gr
import torch

import foreseer


class GoneError(Exception):
    """Who asked has left."""


def generate(pipe, policy, prompt, steps, seed, shown, gone):
    """Draw, in a thread: an image, and the reports of this call."""

    def show(pipe, step, time, tensors):
        if gone.is_set():
            raise GoneError
        shown.put(f"step {step + 1} of {steps}")
        return tensors

    try:
        with foreseer.attach(pipe, policy) as attached:
            generator = torch.Generator().manual_seed(int(seed))
            image = pipe(prompt=prompt, num_inference_steps=steps, generator=generator, callback_on_step_end=show).images[0]
            return image, attached.reports
    finally:
        shown.put(None)


def build(pipes):
    """Make an app over pipelines that are alike; each draws for one request at a time."""
    free, pool = Queue(), ThreadPoolExecutor(len(pipes))
    for pipe in pipes:
        free.put(pipe)

    def draw(prompt, policy, options, steps, seed):
        shown, gone = Queue(), Event()
        pipe = free.get()
        work = pool.submit(generate, pipe, f"{policy}:{options}" if options else policy, prompt, int(steps), seed, shown, gone)
        work.add_done_callback(lambda _: free.put(pipe))  # not before its thread has ended
        try:
            while status := shown.get():
                yield None, status, None
            image, reports = work.result()
        except foreseer.ForeseerError as error:  # an option out of range, a policy that wants another model
            raise gr.Error(str(error)) from error
        finally:
            gone.set()  # also where the user has pressed Stop or closed the page
        told = "\n\n".join(map(str, reports.values())) or "nothing was driven: everything was computed"
        yield image, told, next((report.plot() for report in reports.values()), None)

    with gr.Blocks(title="foreseer") as app:
        prompt = gr.Textbox("3", label="Prompt")
        names = sorted(plugin.name for plugin in foreseer.list_plugins() if plugin.kind == "policy")
        policy = gr.Dropdown(names, value="taylorseer", label="Policy")
        options = gr.Textbox("interval=3", label="Options", info="`foreseer show taylorseer` lists them")
        steps, seed = gr.Slider(4, 50, 28, step=1, label="Steps"), gr.Number(0, precision=0, label="Seed")
        go, stop = gr.Button("Draw", variant="primary"), gr.Button("Stop")
        outputs = gr.Image(format="png", label="Image"), gr.Textbox(label="Report", lines=12), gr.Plot(label="Timeline")
        drawing = go.click(draw, [prompt, policy, options, steps, seed], outputs, concurrency_id="gpu", concurrency_limit=len(pipes), api_name="draw")
        stop.click(None, cancels=drawing)
    return app


if __name__ == "__main__":
    from foreseer.zoo import load_flux

    build([load_flux()]).launch()
