"""Laws of the nodes in ComfyUI's own frontend, in a real browser: they are there, a workflow runs, and what is wrong is red."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from canvas import CHROMIUM, Canvas, canvas
from make_examples import EXAMPLES, tiny
from webui import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here; what the nodes do in a browser is not tested")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvas]:
    with serving(tmp_path_factory.mktemp("comfyui")) as address, canvas(address) as found:
        yield found


def test_a_workflow_runs_and_the_timeline_is_on_the_node(shown: Canvas) -> None:
    """Law: after Run the report's picture lies on its node, drawn and not empty."""
    shown.load(*tiny())
    names = shown.page.run("window.app.graph._nodes.map(node => node.title)")
    assert {"Foreseer Policy", "Foreseer Report"} <= set(names)
    shown.queue()
    shown.wait("(window.app.graph.getNodeById(4).imgs || []).length")
    sizes = shown.page.run("(window.app.graph.getNodeById(4).imgs || []).map(image => [image.naturalWidth, image.naturalHeight])")
    assert len(sizes) == 1
    assert min(sizes[0]) > 400


def test_what_is_wrong_is_red_before_anything_runs(shown: Canvas, tmp_path: Path) -> None:
    """Law: the policy's node is marked, and the sentence that names the nearest option is on the screen."""
    shown.load(*tiny(options="intervall=3"))
    shown.queue()
    shown.wait("window.app.lastNodeErrors")
    assert shown.page.run("Object.keys(window.app.lastNodeErrors || {})") == ["2"]
    assert "did you mean 'interval'" in shown.page.run("document.body.innerText")
    assert shown.picture(tmp_path / "wrong.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_an_example_opens(shown: Canvas, path: Path) -> None:
    """Law: the editor opens each example with every node and link in place."""
    graph = json.loads(path.read_text())
    shown.page.run(f"window.app.loadGraphData({json.dumps(graph)}).then(() => true)")
    assert shown.page.run("window.app.graph._nodes.length") == len(graph["nodes"])
    assert shown.page.run("window.app.graph._nodes.every(node => node.type in LiteGraph.registered_node_types)")
    assert shown.page.run("Object.keys(window.app.graph.links).length || window.app.graph.links.size") == len(graph["links"])
