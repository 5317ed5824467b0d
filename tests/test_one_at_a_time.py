"""Laws of how many samples of a user's pipeline are drawn where nobody says: each prompt once, one at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from saved_pipelines import SAVED, save
from typer.testing import CliRunner

from foreseer.__main__ import app
from foreseer.bench.pipelines import PipelineWorkload


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    save("flux", tmp_path)
    (tmp_path / "prompts.txt").write_text("a fox\ntwo herons\n")
    call = f"{SAVED['flux'][1]},num_inference_steps=4"
    return ["--pipeline", str(tmp_path / "flux"), "--prompts", str(tmp_path / "prompts.txt"), "--call", call]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call of the pipeline drew."""
    counts, draw = list[int](), PipelineWorkload.draw

    def noted(self: PipelineWorkload, indices: Sequence[int], **how: Any) -> Any:
        counts.append(len(indices))
        return draw(self, indices, **how)

    monkeypatch.setattr(PipelineWorkload, "draw", noted)
    return counts


def run(*words: object, status: int = 0) -> str:
    found = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert found.exit_code == status, found.output
    return " ".join(found.output.split())


def test_a_plans_preset_and_a_closed_loop_draw_prompts_one_at_a_time(mine: list[str], together: list[int], tmp_path: Path) -> None:
    trace, plan, preset = (tmp_path / name for name in ("trace.safetensors", "plan.json", "preset.json"))
    run("record", *mine, "--samples", 2, "--batch", 1, "--sensitivity", "none", "--out", trace)
    planned = ("plan", trace, *mine, "--budget", 2, "--out", plan, "--preset", preset)
    run(*planned)
    said = json.loads(preset.read_text())
    assert (said["tuned"]["samples"], said["held_out"]["samples"]) == (2, 2)
    run("replay", trace, *mine, "--closed-loop", 1, "--out", tmp_path / "replay")
    assert set(together) == {1}
    together.clear()
    run(*planned, "--batch", 2)
    assert set(together) == {2}
    assert "batch=0 is out of range; write a whole number >= 1" in run(*planned, "--batch", 0, status=2)
    assert "batch=2 is for a preset" in run("plan", trace, "--batch", 2, "--out", plan, status=2)
