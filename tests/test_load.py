"""The load test of docs/_build: what it counts, that both ways to serve draw the same, and that page and picture say what was measured."""

from __future__ import annotations

import base64
import importlib
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_serving import ask_all, running

from foreseer.zoo import load_dit

ROOT = Path(__file__).resolve().parents[1]

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs" / "_build"))
    arms, load, pictures = map(importlib.import_module, ("load_arms", "load_test", "load_picture"))


def answer(status, latency, pixels):
    Image.fromarray(pixels).save(png := io.BytesIO(), format="png")
    return load.Answer(status, latency, json.dumps({"image": base64.b64encode(png.getvalue()).decode()}).encode())


def test_what_is_late_poor_or_refused_is_not_good():
    """Law: throughput counts answers, goodput those in time and near full computation, over the seconds until the last."""
    truth = np.full((8, 8), 100, np.uint8)
    near, far = truth.copy(), truth.copy()
    near[0, 0] += 40  # 14.2 dB of 8-bit pixels are an error of 40 in each; in one of 64 it is 34.2
    far[:4] += 40
    answers = [answer(200, 1.0, truth), answer(200, 3.0, near), answer(200, 3.5, truth), answer(200, 1.0, far), answer(503, 0.1, truth)]
    found = load.measured(load.Sent(answers, 2.0, 8.0), [truth.astype(float)] * 5, limit=3.2)
    assert (found["sent"], found["refused"], found["throughput"], found["goodput"], found["processor"]) == (5, 1, 2.0, 1.0, 2.0)
    assert found["psnr"] == [100.0, pytest.approx(34.2, abs=0.1), 100.0, pytest.approx(19.1, abs=0.1)]
    assert (found["p50"], found["p95"]) == (2.0, pytest.approx(3.425))


def test_an_answer_that_is_neither_given_nor_refused_ends_the_test():
    with pytest.raises(RuntimeError, match="500"):
        load.measured(load.Sent([load.Answer(500, 1.0, b"")], 1.0, 1.0), [np.zeros((8, 8))], limit=1.0)


def test_every_arm_is_sent_the_same_at_the_same_moments():
    assert load.moments(5, 20.0) == load.moments(5, 20.0) == sorted(load.moments(5, 20.0))
    assert 60 < len(load.moments(5, 20.0)) < 140
    assert load.asked(12) == [*load.asked(11), arms.Asked("1", 11)]


def test_static_batches_are_drawn_together_and_each_gets_its_own(monkeypatch):
    """Law: at most so many at once, the others in the next batch, and each image is that of its request alone."""
    model, sizes = load_dit(), []
    draw = partial(arms.draw_dit, model, None)

    def counted(asked, steps):
        sizes.append(len(asked))
        return draw(asked, steps)

    monkeypatch.setattr(arms, "TOGETHER", 4)
    wanted = load.asked(6)
    with running(arms.static(counted)) as address:
        answers = ask_all(address, [{"prompt": each.prompt, "seed": each.seed, "steps": 3} for each in wanted])
    assert max(sizes) <= 4
    assert len(sizes) < 6
    for each, came in zip(wanted, answers, strict=True):
        (alone,) = draw([each], 3)
        image = np.asarray(load.Answer(200, 0.0, came.content).image()).astype(int)
        assert abs(image - np.asarray(alone).astype(int)).max() <= 1


@pytest.fixture
def content():
    lines = [
        {"batching": arm.batching, "policy": arm.policy, "rate": rate, "load_before": 1.25, "sent": 40, "refused": 3}
        | {"throughput": rate / 3, "goodput": rate / 7, "p50": 1 / rate, "p95": 2 / rate, "processor": 0.125}
        for rate in (2.0, 6.0)
        for arm in arms.ARMS
    ]
    return {
        "model": "dit",
        "settings": {"limit": 1.0},
        "lines": lines,
        "git": {"commit": "0123456789abcdef"},
        "machine": {"processor": "a processor"},
        "versions": {"torch": "2"},
    }


def test_the_table_and_the_picture_show_every_line(content, tmp_path):
    table = pictures.load_table(content)
    assert table.count("\n| 2 | ") == table.count("\n| 6 | ") == len(arms.ARMS)
    assert "| 6 | in flight, cache | 2.00 | 0.17 | 0.33 | 0.86 | 0.12 | 3 of 40 | 1.2 |" in table
    assert "0123456789" in table
    pictures.draw([content], tmp_path / "load.png")
    with Image.open(tmp_path / "load.png") as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24)}
    assert {tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in pictures.COLOURS.values()} <= colours
