"""A workflow in ComfyUI's frontend, in a real browser."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3] / "tests"))

from chromium import CHROMIUM, Page, browser

__all__ = ["CHROMIUM", "Canvas", "canvas"]

WIDTH, HEIGHT = 1600, 900
PATIENCE = 120.0
"""Seconds until something that does not happen is given up."""


class Canvas:
    """The frontend of a server, with a workflow on it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        page.call("Page.navigate", url=address)
        self.wait("window.app && window.app.graph && window.app.canvas && LiteGraph.registered_node_types.ForeseerPolicy")

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(RuntimeError):
                if self.page.run(f"!!({condition})"):
                    return
            if time.monotonic() > until:
                raise TimeoutError(condition)
            time.sleep(0.2)

    def load(self, workflow: dict[str, Any], places: dict[str, tuple[int, int, int, int]] | None = None) -> dict[str, Any]:
        """Lay out a workflow in the form of the API; returns it as the editor saves it.

        Args:
            workflow: Nodes by their ids.
            places: By id, where a node lies and how large it is; None lets the editor arrange them.
        """
        self.page.run(f"(window.app.loadApiJson({json.dumps(workflow)}, 'workflow'), true)")
        self.wait(f"window.app.graph._nodes.length === {len(workflow)}")
        for node, (x, y, width, height) in (places or {}).items():
            self.page.run(f"(n => {{ n.pos = [{x}, {y}]; n.setSize([{width}, {height}]); }})(window.app.graph.getNodeById({node}))")
        self.fit()
        found: dict[str, Any] = self.page.run("window.app.graph.serialize()")
        return found

    def fit(self) -> None:
        """Bring the whole workflow into view."""
        self.page.run(
            "(() => { const c = window.app.canvas, g = window.app.graph._nodes;"
            "const x0 = Math.min(...g.map(n => n.pos[0])) - 20, y0 = Math.min(...g.map(n => n.pos[1])) - 50;"
            "const x1 = Math.max(...g.map(n => n.pos[0] + n.size[0])) + 20, y1 = Math.max(...g.map(n => n.pos[1] + n.size[1])) + 20;"
            "const s = Math.min(1500 / (x1 - x0), 750 / (y1 - y0), 1.2); c.ds.scale = s; c.ds.offset = [-x0 + 75 / s, -y0 + 130 / s];"
            "c.setDirty(true, true); })()"
        )
        self.page.settle()

    def choose(self, node: str, widget: str, value: str) -> None:
        """Write something into a node."""
        found = f"window.app.graph.getNodeById({node}).widgets.find(each => each.name == {json.dumps(widget)})"
        self.page.run(f"({found}.value = {json.dumps(value)}, true)")

    def queue(self) -> None:
        """Run the workflow, and wait until everything is done."""
        self.page.run("window.app.queuePrompt(0, 1).then(() => true)")
        left, until = "fetch('/queue').then(r => r.json()).then(q => q.queue_running.length + q.queue_pending.length)", time.monotonic() + PATIENCE
        while self.page.run(left):
            if time.monotonic() > until:
                raise TimeoutError("the queue does not end")
            time.sleep(0.3)

    def picture(self, path: Path) -> Path:
        """Write what is seen below and beside the bars; the ending says whether as png or jpg."""
        kind = {".jpg": {"format": "jpeg", "quality": 85}}.get(path.suffix, {"format": "png"})
        clip = {"x": 62, "y": 128, "width": WIDTH - 62, "height": HEIGHT - 128, "scale": 1}
        path.write_bytes(base64.b64decode(self.page.call("Page.captureScreenshot", clip=clip, **kind)["data"]))
        return path


@contextlib.contextmanager
def canvas(address: str) -> Iterator[Canvas]:
    """Open the frontend of a server."""
    with browser() as page:
        yield Canvas(page, address)
