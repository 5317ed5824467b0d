"""Laws of blocks that compute their attention themselves, as Black Forest Labs' code does: only their projections are
modules.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import foreseer
from foreseer.adapters.parts import parts_of

WIDTH, STEPS = 8, [float(time) for time in range(800, 0, -100)]


class Held(nn.Module):
    """Projections that the block calls one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_attn, self.txt_attn = Held(), Held()
        self.img_mlp, self.txt_mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        qkv = torch.cat([self.txt_attn.qkv(txt), self.img_attn.qkv(img)], dim=1)
        mixed = scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        img = img + self.img_attn.proj(mixed[:, txt.shape[1] :])
        txt = txt + self.txt_attn.proj(mixed[:, : txt.shape[1]])
        return img + self.img_mlp(img), txt + self.txt_mlp(txt)


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 5 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        qkv, mlp = self.linear1(x).split([3 * WIDTH, 2 * WIDTH], dim=-1)
        return x + self.linear2(torch.cat([scaled_dot_product_attention(*qkv.chunk(3, dim=-1)), mlp], dim=-1))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.double_blocks = nn.ModuleList(Double() for _ in range(2))
        self.single_blocks = nn.ModuleList(Single() for _ in range(2))
        self.eval().requires_grad_(False)

    def forward(self, img: Tensor, txt: Tensor) -> Tensor:
        for block in self.double_blocks:
            img, txt = block(img, txt)
        x = torch.cat([txt, img], dim=1)
        for block in self.single_blocks:
            x = block(x)
        return x[:, txt.shape[1] :]


def test_their_projections_are_parts() -> None:
    """Law: what the paper's code calls attention, MLP and total are the outputs of the last projections."""
    double, single = parts_of(Double()), parts_of(Single())
    assert double is not None
    assert single is not None
    assert double.modules == {"attn": "img_attn.proj", "context_attn": "txt_attn.proj", "mlp": "img_mlp", "context_mlp": "txt_mlp"}
    assert (single.modules, single.idle) == ({"total": "linear2"}, ("linear1",))
    assert double.inline == single.inline == "attention"


def test_other_blocks_with_such_names_are_not_taken_for_them() -> None:
    """Law: where attention is a module it is the part; and a block that wraps another has its parts."""
    other, wrapped = parts_of(nn.TransformerEncoderLayer(16, 2)), parts_of(nn.ModuleDict({"block": Single()}))
    assert other is not None
    assert wrapped is not None
    assert (other.modules, other.inline) == ({"attn": "self_attn"}, "")
    assert (wrapped.modules, wrapped.idle, wrapped.inline) == ({"total": "block.linear2"}, ("block.linear1",), "attention")


def test_forecast_steps_run_no_projection() -> None:
    """Law: with `none` nothing changes; a forecast step runs none of the projections, and the report says what does run."""
    model, calls = Model(), Counter[str]()
    inputs = [torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(count)) for count in (6, 3)]
    bare = model(*inputs)
    for path in ("double_blocks.1.img_attn.qkv", "double_blocks.0.txt_attn.proj", "single_blocks.0.linear1", "single_blocks.1.linear2"):
        model.get_submodule(path).register_forward_hook(lambda module, args, output, path=path: calls.update([path]))
    with foreseer.attach(model, "reuse:interval=4", target="modules") as attached:
        with attached.run(timesteps=STEPS):
            outputs = [model(*inputs) for _ in STEPS]
    assert all(torch.equal(output, bare) for output in outputs)  # the same features: reuse is exact
    assert set(calls.values()) == {len(attached.report.full_steps)} == {2}
    assert any("compute their attention themselves" in warning for warning in attached.report.warnings)
