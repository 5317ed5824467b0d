"""Run against an installed wheel, outside of the checkout, with the core's dependencies alone: `python -I tests/check_wheel.py`."""

import sys
from importlib.metadata import entry_points, files

import foreseer

assert "torch" not in sys.modules, "import foreseer imported torch before anybody used it"

import torch  # noqa: E402  (what comes before is the point)

installed = {str(path) for path in files("foreseer")}
for needed in ("foreseer/py.typed", "foreseer/policies/_speca.py", "foreseer/adapters/_attach.py", "foreseer/zoo/dit_digits/weights.safetensors",
               "foreseer/zoo/digits_classifier/weights.safetensors", "foreseer/zoo/dit_fashion/weights.safetensors", "foreseer/bench/page.html",
               "foreseer/adapters/models.json", "foreseer/testing/__init__.py", "foreseer/scaffold/__init__.py"):  # fmt: skip
    assert needed in installed, f"{needed} is not in the wheel"
assert "site-packages" in foreseer.__file__, foreseer.__file__
for heavy in ("diffusers", "rich", "typer", "matplotlib", "sklearn", "pytest", "hypothesis", "jinja2"):
    assert heavy not in sys.modules, f"import foreseer imported {heavy}"

assert not {e.value for e in entry_points(group="pytest11") if e.value.startswith("foreseer")}, "a pytest plugin would change other people's test runs"
assert {e.name for e in entry_points(group="foreseer.policies")} >= {"none", "reuse", "taylorseer", "cg_taylor", "speca", "speca_released"}


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


model = Model().requires_grad_(False)
with foreseer.attach(model, "speca", threshold=0.5) as attached, attached.run(num_steps=8):
    for _ in range(8):
        model(torch.ones(2, 4))
assert attached.report.full_steps[0] == 0
assert attached.report.block_rows_ratio < 1
print(attached.report)
