"""The contract knows no framework: a plain PyTorch loop and recorded numpy arrays are driven by the same plugins, unpatched, and decide alike."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import foreseer
from foreseer.adapters import ArrayBackbone
from foreseer.registry import parse_policy

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
STEPS, ROWS, DEPTH = 30, 3, 5
POLICIES = (
    "none",
    "taylorseer:target=last_block,max_order=2",
    "taylorseer:target=output,interval=3",
    "cg_taylor:threshold=0.003",
    "cg_taylor:threshold=0.003,decide=batch",
    "speca:target=last_block,threshold=0.02",
    "cg_taylor:threshold=0.003,predictor=newton",
    "cg_taylor:threshold=0.02,predictor=hicache",
    "budget:fraction=0.5",
)


@pytest.fixture(autouse=True)
def _installed(example_plugins):
    pass


def module(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def feature(block, row, step):
    """Rows of different smoothness; the first entry is the row's number, so that a block can tell which rows it is given."""
    wave = np.sin(0.05 * (1 + row) * step + np.arange(6) + block) + (2.0 if step > 17 and row == 1 else 0.0)
    return np.concatenate([[float(row)], 3.0 + wave])


class Counted:
    """Blocks in closed form for the PyTorch host, counting the rows that they are really given."""

    def __init__(self):
        self.block_rows = 0

    def __call__(self, index, h, t):
        self.block_rows += len(h)
        return torch.from_numpy(np.stack([feature(index, round(float(row)), int(t)) for row in h[:, 0]]))


def run(host, x, policy, groups):
    seen = []
    loop = {
        "inputs": (lambda _, t: int(t)) if x is None else (lambda _, t: (x, t)),
        "update": lambda _, output, index: seen.append(torch.as_tensor(output).numpy().copy()),
    }
    _, report = foreseer.sample(host, None, range(STEPS), policy=policy, groups=groups, **loop)
    return report, np.array(seen)


@pytest.mark.parametrize("groups", [None, (0, 1, 0)])
@pytest.mark.parametrize("name", POLICIES)
def test_both_hosts_decide_alike_and_count_what_they_compute(name, groups):
    policy = parse_policy(name)
    blocks = Counted()
    plain = module("torch_loop").Blocks(blocks, DEPTH)
    arrays = {foreseer.Site(b): np.array([[feature(b, r, t) for r in range(ROWS)] for t in range(STEPS)]) for b in range(DEPTH)}
    x = torch.arange(float(ROWS), dtype=torch.float64)[:, None].repeat(1, 7)
    ours, outputs = run(plain, x, policy, groups)
    theirs, expected = run(ArrayBackbone.recorded(arrays), None, policy, groups)
    assert (ours.computed == theirs.computed).all()
    assert ours.block_rows == theirs.block_rows == blocks.block_rows
    assert np.allclose(ours.error, theirs.error, equal_nan=True)
    assert np.allclose(outputs, expected)
    if name != "none":
        assert 0 < ours.computed.sum() < ours.computed.size, "some of it was forecast, or this says nothing"


@pytest.mark.parametrize("own_only", ["", "1"])
@pytest.mark.parametrize("name", ["torch_loop", "numpy_replay"])
def test_the_examples_run_as_they_are(name, own_only, example_plugins):
    """With the example plugins, and with none."""
    told = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__'); print(*(m for m in ('diffusers', 'foreseer.adapters') if m in sys.modules))"
    environment = {**os.environ, "FORESEER_NO_PLUGINS": own_only, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(example_plugins)}
    done = subprocess.run([sys.executable, "-c", told, EXAMPLES / f"{name}.py"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    *lines, imported = done.stdout.splitlines()
    assert lines[0].startswith("taylorseer:target=last_block")
    assert lines[1].startswith("cg_taylor ")
    assert len(lines) == (2 if own_only else 5)
    assert all("of the block-rows, off by" in line for line in lines)
    assert imported == ("" if name == "torch_loop" else "foreseer.adapters")


OTHERS = {
    "serving.py": {"fastapi"},
    "streaming.py": {"fastapi"},
    "gradio_app.py": {"gradio"},
    "batching.py": {"fastapi", "samplers"},
    "samplers.py": {"diffusers", "PIL"},
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_stands_alone(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    names = {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign <= {"foreseer", "torch", "numpy"} | OTHERS.get(path.name, set())
    assert path.name != "torch_loop.py" or "foreseer.adapters" not in names
