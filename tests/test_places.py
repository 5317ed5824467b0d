"""Laws of where tensors lie: what is handed back lies as what was recorded, of all rows and of some, so that every product is summed alike."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

import foreseer
from foreseer.adapters.layouts import Layout
from foreseer.adapters.places import Place

VIEWS = {
    "in order": lambda z: z,
    "the first tokens": lambda z: z[:, :5],
    "the last tokens": lambda z: z[:, 5:],
    "the last token": lambda z: z[:, -1:],
    "some channels": lambda z: z[..., 3:9],
    "the middle": lambda z: z[:, 1:6, 2:7],
    "transposed": lambda z: z.transpose(1, 2),
    "transposed and cut": lambda z: z.transpose(1, 2)[:, 2:, 1:],
    "rows innermost": lambda z: z.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}


@pytest.mark.parametrize("name", list(VIEWS))
@given(rows=st.integers(1, 4), width=st.sampled_from([12, 16, 24]), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_handed_back_lies_as_what_was_recorded(name: str, rows: int, width: int, dtype: torch.dtype) -> None:
    value = VIEWS[name](torch.randn(rows, 8, width).to(dtype))
    layout = Layout.of(value, rows)
    back = layout.unpack(layout.pack(value).clone())
    assert torch.equal(back, value)
    for one, other, size in zip(back.stride(), value.stride(), value.shape, strict=True):
        assert one == other or size == 1
    assert back.data_ptr() % 64 == value.data_ptr() % 64
    fewer = layout.unpack(layout.pack(value)[:1].clone())
    assert torch.equal(fewer, value[:1])
    if name != "rows innermost" and rows > 1:
        assert fewer.stride()[1:] == value.stride()[1:]


@pytest.mark.parametrize("view", [lambda z: z[:, :1].expand(-1, 8, -1), lambda z: z[..., ::2], lambda z: z.unfold(1, 4, 1)])
def test_what_lies_otherwise_is_handed_back_in_order(view: object) -> None:
    value: Tensor = view(torch.randn(3, 8, 12))  # type: ignore[operator]
    back = Place.of(value).put(value.clone())
    assert torch.equal(back, value)
    assert back.is_contiguous()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(24, 24)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        z = torch.cat([image, text], 1)
        z = z + torch.tanh(self.inner(z))
        return z[:, : image.shape[1]], z[:, image.shape[1] :]


class Joint(nn.Module):
    """Its blocks return slices of one sequence, and its head takes them as they lie."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(24, 24)
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        image, text = hidden_states, encoder_hidden_states
        for block in self.blocks:
            image, text = block(image, text)
        return self.head(image) + self.head(text).mean(1, keepdim=True)


@pytest.mark.parametrize("tokens", [3, 1])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_blocks_that_return_slices_are_forecast(rows: int, tokens: int) -> None:
    """Law: the self-check holds with any number of rows, so that no target falls back."""
    image, text = torch.randn(rows, 5, 24), torch.randn(rows, tokens, 24)
    with torch.no_grad(), foreseer.attach(Joint(), "reuse", interval=3, target="last_block") as attached, attached.run(num_steps=9):
        for step in range(9):
            attached.model(hidden_states=image, timestep=torch.full((rows,), float(step)), encoder_hidden_states=text)
    assert not attached.report.warnings
    assert attached.report.full_steps == [0, 3, 6]
