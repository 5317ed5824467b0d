"""A stand-in for vLLM-Omni: its model runner, its selector of cache backends and a pipeline, as far as the plugin touches them.

It is built from their documented interfaces and shows that the plugin keeps its books. It shows nothing about vLLM-Omni.
"""

import dataclasses
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

STEPS = 9


@dataclasses.dataclass
class DiffusionCacheConfig:
    """What ``--cache-config`` becomes: fields for vLLM-Omni's own backends, and the keys that it does not know."""

    rel_l1_thresh: float | None = None
    _extra_params: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, data):
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in known}, _extra_params={k: v for k, v in data.items() if k not in known})


def runner_module():
    module = types.ModuleType("vllm_omni.diffusion.worker.diffusion_model_runner")

    def get_cache_backend(cache_backend, cache_config):
        """vLLM-Omni's own: a closed list."""
        if cache_backend not in (None, "none"):
            raise ValueError(f"Unsupported cache backend: {cache_backend}")

    class DiffusionModelRunner:
        def __init__(self, pipeline, cache_backend=None, cache_config=None):
            self.pipeline = pipeline
            self.cache_backend = module.get_cache_backend(cache_backend, DiffusionCacheConfig.from_dict(cache_config or {}))
            if self.cache_backend is not None:
                self.cache_backend.enable(pipeline)

        def execute_model(self, *reqs, steps=STEPS):
            with torch.inference_mode():
                if self.cache_backend is not None and self.cache_backend.is_enabled() and steps is not None:
                    self.cache_backend.refresh(self.pipeline, steps)
                return self.pipeline.forward(types.SimpleNamespace(requests=list(reqs)))

    module.get_cache_backend, module.DiffusionModelRunner = get_cache_backend, DiffusionModelRunner
    return module


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.modulation, self.mix, self.ff = nn.Linear(width, 2 * width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states, temb):
        scale, gate = self.modulation(temb).unsqueeze(1).chunk(2, dim=-1)
        hidden_states = hidden_states + gate * self.mix(hidden_states * (1 + scale)).mean(dim=1, keepdim=True)
        return hidden_states + self.ff(torch.tanh(hidden_states))


class DiT(nn.Module):
    """Four blocks over a 4x4 image's pixels, conditioned on a timestep and a prompt."""

    def __init__(self, width=16):
        super().__init__()
        self.into, self.text, self.time, self.out = nn.Linear(1, width), nn.Linear(6, width), nn.Linear(2, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        phase = timestep[:, None] / 1000
        temb = self.text(encoder_hidden_states).mean(dim=1) + self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        hidden = self.into(hidden_states.flatten(1).unsqueeze(-1))
        for block in self.blocks:
            hidden = block(hidden, temb)
        return self.out(hidden).reshape(hidden_states.shape)


def prompt(seed):
    return torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed))


class Pipeline(nn.Module):
    """A loop of its own over one or two models, each branch of guidance in a call; one row for each request."""

    def __init__(self, transformer, transformer_2=None, *, guided=True):
        super().__init__()
        self.transformer, self.transformer_2 = transformer, transformer_2
        self.guided, self.fails_at, self.outputs = guided, None, {"cond": [], "uncond": []}

    def forward(self, batch):
        rows = len(batch.requests)
        latents = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).repeat(rows, 1, 1, 1)
        texts = {"cond": torch.cat([prompt(request.seed) for request in batch.requests]), "uncond": prompt(0).repeat(rows, 1, 1)}
        for index, time in enumerate(torch.linspace(900, 100, STEPS)):
            if index == self.fails_at:
                raise RuntimeError("the client has left")
            self.current = self.transformer if self.transformer_2 is None or time >= 500 else self.transformer_2
            shared = {"hidden_states": latents, "timestep": time.repeat(rows)}
            latents = latents - 0.1 * self.guide(*({**shared, "encoder_hidden_states": text} for text in texts.values()))
        return latents

    def guide(self, positive, negative):
        if self.guided:
            return self.predict_noise_maybe_with_cfg(True, 1.5, positive, negative)
        return self.combine(self.current(**positive), self.current(**negative))

    def predict_noise(self, **kwargs):
        return self.current(**kwargs)

    def predict_noise_maybe_with_cfg(self, do_true_cfg, true_cfg_scale, positive_kwargs, negative_kwargs, cfg_normalize=True):
        return self.combine(self.predict_noise(**positive_kwargs), self.predict_noise(**negative_kwargs))

    def combine(self, positive, negative):
        self.outputs["cond"].append(positive)
        self.outputs["uncond"].append(negative)
        return negative + 1.5 * (positive - negative)


@pytest.fixture(scope="session")
def models():
    """Two random DiTs."""
    torch.manual_seed(0)
    return [DiT().eval().requires_grad_(False) for _ in range(2)]


@pytest.fixture
def engine(monkeypatch):
    """vLLM-Omni's runner module, as far as the plugin can tell."""
    runner, data = runner_module(), types.ModuleType("vllm_omni.diffusion.data")
    data.DiffusionCacheConfig = DiffusionCacheConfig
    for name in ("vllm_omni", "vllm_omni.diffusion", "vllm_omni.diffusion.worker"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for module in (runner, data):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("FORESEER_REPORTS", raising=False)
    return runner


@pytest.fixture
def start(engine):
    """A worker's start: the plugin is loaded, the model too, and the backend is chosen and enabled."""
    import foreseer_vllm_omni

    begun = []

    def worker(pipeline, **config):
        foreseer_vllm_omni.register()
        begun.append(engine.DiffusionModelRunner(pipeline, "foreseer", config))
        return begun[-1], begun[-1].cache_backend.requests

    yield worker
    for runner in begun:
        runner.cache_backend.requests.detach()


@pytest.fixture
def request_of():
    return lambda seed=1, name="r1": types.SimpleNamespace(request_id=name, seed=seed)


@pytest.fixture
def pipe_of():
    return Pipeline
