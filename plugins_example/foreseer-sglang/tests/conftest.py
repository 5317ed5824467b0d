"""A stand-in for SGLang-diffusion: its hook registry, its denoising stage and its diffusers backend, as far as the plugin touches them.

It is built from their documented interfaces and shows that the plugin keeps its books. It shows nothing about SGLang.
"""

import enum
import functools
import pkgutil
import sys
import types
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

STEPS = 9
RUNTIME = "sglang.multimodal_gen.runtime"


def hook_registry():
    """``HookRegistry.register(target, hook, hook_type)``, and ``apply_hooks()``, which SGLang calls when all plugins are loaded."""
    kinds = enum.Enum("HookType", "BEFORE AFTER AROUND REPLACE")

    class HookRegistry:
        hooks: ClassVar = []

        @classmethod
        def register(cls, target, hook, hook_type=kinds.AFTER, *, source=None):
            cls.hooks.append((target, hook, hook_type))

        @classmethod
        def apply_hooks(cls):
            for target, hook, hook_type in cls.hooks:
                assert hook_type is kinds.AROUND
                holder, name = target.rsplit(".", 1)
                owner = pkgutil.resolve_name(holder)
                setattr(owner, name, cls.around(getattr(owner, name), hook))

        @staticmethod
        def around(original, hook):
            @functools.wraps(original)
            def wrapper(*args, **kwargs):
                return hook(original, *args, **kwargs)

            return wrapper

    return HookRegistry, kinds


def denoising_stage():
    class DenoisingStage:
        """Its loop over the timesteps, one branch of guidance after the other, and the model that the timestep chooses."""

        def __init__(self, transformer, transformer_2=None):
            self.transformer, self.transformer_2 = transformer, transformer_2
            self._cache_dit_enabled = False
            self.outputs = {"cond": [], "uncond": []}

        def __call__(self, batch, server_args):
            return self.forward(batch, server_args)

        def forward(self, batch, server_args):
            for _ in range(batch.chunks):
                self._reset_dit_cache_states(batch)
                self._loop(batch, server_args)
            return batch

        def _loop(self, batch, server_args):
            with torch.no_grad():
                for index, time in enumerate(batch.timesteps):
                    if index == batch.fails_at:
                        raise RuntimeError("the client has left")
                    model = self.transformer if time >= batch.boundary else self.transformer_2
                    noise = self._predict_noise_with_cfg(
                        current_model=model,
                        latent_model_input=batch.latents,
                        timestep=time.repeat(len(batch.latents)),
                        batch=batch,
                        timestep_index=index,
                        target_dtype=torch.float32,
                        server_args=server_args,
                        guidance=None,
                    )
                    batch.latents = batch.latents - 0.1 * noise

        def _reset_dit_cache_states(self, batch):
            pass

        def _predict_noise_with_cfg(self, current_model, latent_model_input, timestep, batch, timestep_index, target_dtype, server_args, guidance):
            found = []
            for negative, label in ((False, batch.label), (True, 10)):
                batch.is_cfg_negative = negative
                labels = torch.full((len(latent_model_input),), label)
                found.append(self._predict_noise(current_model, latent_model_input, timestep, target_dtype, guidance, class_labels=labels))
                self.outputs["uncond" if negative else "cond"].append(found[-1])
            return found[1] + 1.5 * (found[0] - found[1])

        def _predict_noise(self, current_model, latent_model_input, timestep, target_dtype, guidance, **kwargs):
            return current_model(hidden_states=latent_model_input, timestep=timestep, **kwargs)

    return DenoisingStage


def diffusers_backend():
    class DiffusersPipeline:
        def __init__(self, pipe, server_args):
            self.diffusers_pipe = self._apply_cache_dit(pipe, server_args)

        def _apply_cache_dit(self, pipe, server_args):
            return pipe

    class DiffusersExecutionStage:
        def __init__(self, diffusers_pipe):
            self.diffusers_pipe = diffusers_pipe

        def forward(self, batch, server_args):
            made = torch.Generator().manual_seed(batch.seed)
            batch.output = self.diffusers_pipe(batch.label, num_inference_steps=STEPS, generator=made)
            return batch

    return DiffusersPipeline, DiffusersExecutionStage


@pytest.fixture
def engine(monkeypatch):
    """SGLang, as far as the plugin can tell; `load()` loads the plugin and applies its hooks, as a worker does when it starts."""
    parts = {"plugins": {}, "runtime.pipelines_core.stages.denoising": {}, "runtime.pipelines.diffusers_pipeline": {}}
    registry, kinds = hook_registry()
    stage, (pipeline, execution) = denoising_stage(), diffusers_backend()
    parts["plugins"] = {"HookRegistry": registry, "HookType": kinds}
    parts["runtime.pipelines_core.stages.denoising"] = {"DenoisingStage": stage}
    parts["runtime.pipelines.diffusers_pipeline"] = {"DiffusersPipeline": pipeline, "DiffusersExecutionStage": execution}
    for path, content in parts.items():
        names = f"sglang.multimodal_gen.{path}".split(".")
        for depth in range(1, len(names) + 1):
            name = ".".join(names[:depth])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.delenv("FORESEER_POLICY", raising=False)
    monkeypatch.delenv("FORESEER_REPORTS", raising=False)

    def load(policy):
        import foreseer_sglang

        monkeypatch.setenv("FORESEER_POLICY", policy)
        foreseer_sglang.register()
        registry.apply_hooks()
        return next((hook.__self__.requests for _, hook, _ in registry.hooks), None)

    yield SimpleNamespace(load=load, registry=registry, Stage=stage, Pipeline=pipeline, Execution=execution, Pipe=Pipe)
    for _, hook, _ in registry.hooks:
        hook.__self__.requests.detach()


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.modulation, self.mix, self.ff = nn.Linear(width, 2 * width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states, temb):
        scale, gate = self.modulation(temb).unsqueeze(1).chunk(2, dim=-1)
        hidden_states = hidden_states + gate * self.mix(hidden_states * (1 + scale)).mean(dim=1, keepdim=True)
        return hidden_states + self.ff(torch.tanh(hidden_states))


class DiT(nn.Module):
    """Four blocks over a 4x4 image's pixels, conditioned on a timestep and a label."""

    def __init__(self, width=16):
        super().__init__()
        self.into, self.label, self.time, self.out = nn.Linear(1, width), nn.Embedding(11, width), nn.Linear(2, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))

    def forward(self, hidden_states, timestep, class_labels):
        phase = timestep[:, None] / 1000
        temb = self.label(class_labels) + self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        hidden = self.into(hidden_states.flatten(1).unsqueeze(-1))
        for block in self.blocks:
            hidden = block(hidden, temb)
        return self.out(hidden).reshape(hidden_states.shape)


class Scheduler:
    def set_timesteps(self, steps):
        self.timesteps = torch.linspace(900, 100, steps)

    def step(self, noise, time, latents):
        return latents - 0.1 * noise


class Pipe:
    """A pipeline by what foreseer asks of one of diffusers: components, a scheduler that is stepped, and an end that is told."""

    def __init__(self, transformer):
        self.transformer, self.scheduler = transformer, Scheduler()
        self.components = {"transformer": transformer, "scheduler": self.scheduler}

    @torch.no_grad()
    def __call__(self, label, *, num_inference_steps, generator):
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(1, 1, 4, 4, generator=generator)
        for time in self.scheduler.timesteps:
            labels = torch.tensor([label, 10])
            given, empty = self.transformer(latents.repeat(2, 1, 1, 1), time.repeat(2), labels).chunk(2)
            latents = self.scheduler.step(empty + 1.5 * (given - empty), time, latents)
        self.maybe_free_model_hooks()
        return latents

    def maybe_free_model_hooks(self):
        pass


@pytest.fixture(scope="session")
def models():
    """Two random DiTs."""
    torch.manual_seed(0)
    return [DiT().eval().requires_grad_(False) for _ in range(2)]


@pytest.fixture
def ask():
    """A request, as SGLang's workers have it."""

    def batch(**given):
        default = {"request_id": "r1", "label": 3, "boundary": -1, "chunks": 1, "fails_at": None, "is_warmup": False, "is_cfg_negative": False}
        latents = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(**{**default, "timesteps": torch.linspace(900, 100, STEPS), "latents": latents, **given})

    return batch
