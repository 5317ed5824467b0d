"""Attaching to models: any policy, and the model as it was afterwards."""

import contextlib
import copy
import threading

import numpy as np
import pytest
import torch
from tiny import TINY
from torch import nn

import foreseer
from foreseer import Plan, Site, hookimpl
from foreseer.adapters import ModuleBackbone, Wires
from foreseer.policies import taylor

POLICIES = [
    "none",
    "reuse",
    "taylorseer:interval=3",
    "taylorseer:interval=3,target=last_block",
    "cg_taylor:threshold=0.2",
    "cg_taylor:threshold=0.2,decide=batch",
    "speca:threshold=0.5,threshold_decay=1",
    "speca:threshold=0.5,threshold_decay=1,decide=batch",
    "speca:threshold=0.5,threshold_decay=1,target=last_block",
    "speca:threshold=0.5,threshold_decay=1,on_reject=next_step",
    "speca_released",
]
STEPS = 12
ROWS = 6


class Plain(nn.Module):
    """Blocks in a plain list, a head that looks at the time: what a researcher writes in an afternoon."""

    def __init__(self, depth=5, width=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))
        self.head = nn.Linear(width, width)
        self.calls = []

    def forward(self, x, t):
        for index, layer in enumerate(self.layers):
            x = x + layer(x) * (1 + t / 100).view(-1, *(1,) * (x.ndim - 1))
            self.calls.append(index)
        return self.head(x) * t.view(-1, *(1,) * (x.ndim - 1))


def dit_inputs(step, rows=ROWS):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, 4, 4, generator=g) + 0.05 * step * torch.randn(rows, 1, 4, 4, generator=g)
    return (x, torch.full((rows,), 900 - 10 * step)), {"class_labels": torch.arange(rows) % 10}


@torch.no_grad()
def walk(model, attached=None, *, steps=STEPS, rows=ROWS, groups=None):
    """Call the model as a loop would; returns its outputs."""
    out = []
    for step in range(steps):
        args, kwargs = dit_inputs(step, rows)
        out.append(model(*args, **kwargs).sample.clone())
    return out


def run(model, text, **kwargs):
    groups = kwargs.pop("groups", None)
    steps, rows = kwargs.pop("steps", STEPS), kwargs.pop("rows", ROWS)
    spec = foreseer.registry.parse_policy(text)
    with foreseer.attach(model, spec, **kwargs) as attached, attached.run(num_steps=steps, groups=groups):
        outputs = walk(model, steps=steps, rows=rows)
    return outputs, attached.report


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("text", POLICIES)
def test_two_equal_runs_are_equal_and_detaching_restores_bit_for_bit(text, tiny_dit):
    before, attributes = walk(tiny_dit), {name: dict(m.__dict__) for name, m in tiny_dit.named_modules()}
    first, report = run(tiny_dit, text)
    second, again = run(tiny_dit, text)
    assert same(first, second)
    assert report.full_steps == again.full_steps
    assert same(walk(tiny_dit), before)
    for name, module in tiny_dit.named_modules():
        assert module.__dict__.keys() == attributes[name].keys(), "nothing is left on a module"


@pytest.mark.parametrize("text", POLICIES)
def test_block_calls_are_what_the_report_says(text, tiny_dit):
    rows_of_calls = []
    hooks = [b.attn1.register_forward_hook(lambda m, args, out: rows_of_calls.append(len(out))) for b in tiny_dit.transformer_blocks]
    _, report = run(tiny_dit, text, groups=3)
    for hook in hooks:
        hook.remove()
    assert sum(rows_of_calls) == report.block_rows + report.check_block_rows
    if text != "none":
        assert report.block_rows_ratio < 1
        assert not report.warnings


def test_policy_none_is_bitwise_the_bare_model(tiny_dit):
    assert same(run(tiny_dit, "none")[0], walk(tiny_dit))


@pytest.mark.parametrize("text", ["cg_taylor:threshold=0", "speca:threshold=0", "speca:threshold=0,target=last_block", "cg_taylor:threshold=0,decide=batch"])
def test_threshold_zero_is_bitwise_the_bare_model(text, tiny_dit):
    outputs, report = run(tiny_dit, text)
    assert same(outputs, walk(tiny_dit))
    assert report.full_steps == list(range(STEPS))


def test_threshold_zero_says_that_nothing_was_gained(tiny_dit):
    _, report = run(tiny_dit, "speca:threshold=0")
    assert any("nothing was accelerated" in w and "rejected" in w for w in report.warnings)


def test_rejected_speca_row_is_recomputed_in_the_same_step(tiny_dit):
    outputs, report = run(tiny_dit, "speca:threshold=0.02,threshold_decay=1,max_draft_steps=None,min_draft_steps=0", steps=STEPS)
    truth = walk(tiny_dit)
    mixed = [s for s in range(STEPS) if report.rejected[s].any() and not report.rejected[s].all()]
    assert mixed, "the threshold was chosen so that some rows are accepted and some are not"
    for step in mixed:
        computed = torch.from_numpy(report.computed[step])
        assert torch.allclose(outputs[step][computed], truth[step][computed], atol=1e-5)
        assert report.outcomes[step].block_rows == ROWS + 4 * int(computed.sum())


@pytest.mark.parametrize("text", ["cg_taylor:threshold=0.02", "speca:threshold=0.02,threshold_decay=1", "taylorseer:interval=3"])
def test_a_row_in_a_batch_gets_what_it_gets_alone(text, tiny_dit):
    together, report = run(tiny_dit, text)
    spec = foreseer.registry.parse_policy(text)
    for row in range(ROWS):
        with foreseer.attach(tiny_dit, spec) as attached, attached.run(num_steps=STEPS), torch.no_grad():
            for step in range(STEPS):
                (x, t), kwargs = dit_inputs(step)
                alone = tiny_dit(x[row : row + 1], t[row : row + 1], class_labels=kwargs["class_labels"][row : row + 1]).sample
                assert torch.allclose(together[step][row], alone[0], atol=2e-5)
        assert attached.report.computed[:, 0].tolist() == report.computed[:, row].tolist()


def test_forecast_of_recorded_features_reproduces_the_output_bit_for_bit(tiny_dit):
    """Substituting what was just recorded, at every granularity, is the identity: the wiring's self-check."""
    wires = Wires(tiny_dit)
    wires.install()
    backbone = ModuleBackbone(wires)
    backbone.watch(backbone.sites)
    args, kwargs = dit_inputs(3)
    from foreseer.adapters import Call

    call = Call(tiny_dit._call_impl, args, kwargs)
    with torch.no_grad():
        full = backbone.forward(call, substitute={}, record=backbone.sites)
        assert all(backbone.anatomy.assemblies[b] is not None for b in range(4))
        for chosen in (
            [s for s in backbone.sites if s.part != "block"],
            [Site(3)],
            [Site(1)],
            [Site(2, "mlp")],
            [Site(0, "attn"), Site(0, "mlp"), Site(3, "attn")],
        ):
            again = backbone.forward(call, substitute={s: full.features[s].clone() for s in chosen})
            assert torch.equal(again.output.sample, full.output.sample), chosen
    wires.restore()


def test_blocks_nobody_needs_are_not_called():
    model = Plain().eval().requires_grad_(False)
    with foreseer.attach(model, "taylorseer", interval=4) as attached, attached.run(num_steps=6):
        for step in range(6):
            model(torch.ones(2, 3, 8), torch.full((2,), float(step)))
    assert attached.report.full_steps == [0, 1, 5]
    assert attached.report.block_rows == 3 * 5 * 2
    assert any("no known module parts" in w for w in attached.report.warnings)


@pytest.mark.parametrize("text", [p for p in POLICIES if "released" not in p])
def test_any_module_with_a_list_of_blocks(text):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x, t):
            return x + torch.tanh(self.linear(x)) * t.view(-1, 1) / 100

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Residual() for _ in range(5))
            self.head = nn.Linear(8, 3)

        def forward(self, x, t):
            for block in self.blocks:
                x = block(x, t)
            return {"noise": self.head(x), "time": t}

    model = Model().eval().requires_grad_(False)
    inputs = [(torch.full((4, 8), 0.5) + torch.arange(4)[:, None] * 0.1, torch.full((4,), 50.0 - s)) for s in range(STEPS)]
    truth = [model(*i)["noise"] for i in inputs]
    with foreseer.attach(model, foreseer.registry.parse_policy(text)) as attached, attached.run(num_steps=STEPS):
        outputs = [model(*i) for i in inputs]
    assert all(torch.equal(o["time"], i[1]) for o, i in zip(outputs, inputs, strict=True)), "what is not forecast is live"
    assert all(torch.allclose(o["noise"], t, atol=0.2) for o, t in zip(outputs, truth, strict=True))
    for step in attached.report.full_steps:
        assert torch.equal(outputs[step]["noise"], truth[step])


def test_exception_in_the_middle_then_a_run_equals_a_clean_run(tiny_dit):
    clean, _ = run(tiny_dit, "speca:threshold=0.5")
    with foreseer.attach(tiny_dit, "speca", threshold=0.5) as attached:
        with contextlib.suppress(KeyboardInterrupt), attached.run(num_steps=STEPS):
            walk(tiny_dit, steps=5)
            raise KeyboardInterrupt
        assert len(attached.report.outcomes) == 5, "the report survives"
        assert attached.report.finished
        with attached.run(num_steps=STEPS):
            assert same(walk(tiny_dit), clean)


def test_exception_inside_the_model_leaves_it_usable(tiny_dit):
    before = walk(tiny_dit)
    handle = tiny_dit.transformer_blocks[2].register_forward_hook(lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError), foreseer.attach(tiny_dit, "taylorseer") as attached, attached.run(num_steps=STEPS):
        walk(tiny_dit)
    handle.remove()
    assert same(walk(tiny_dit), before)


def test_runs_of_other_sizes_follow_one_another(tiny_dit):
    with foreseer.attach(tiny_dit, "speca", threshold=0.5) as attached:
        for rows, steps in ((6, 12), (3, 7), (6, 12)):
            with attached.run(num_steps=steps):
                walk(tiny_dit, steps=steps, rows=rows)
            fresh, _ = run_elsewhere(tiny_dit, steps, rows)
            assert attached.report.full_steps == fresh


def run_elsewhere(model, steps, rows):
    other = copy.deepcopy(model)
    for module in other.modules():  # a deep copy of an attached model carries the wrappers' closures; take them off
        module.__dict__.pop("_compiled_call_impl", None)
    outputs, report = run(other, "speca:threshold=0.5", steps=steps, rows=rows)
    return report.full_steps, outputs


def test_a_batch_that_changes_within_a_run_is_a_stream_of_its_own(tiny_dit):
    bare = walk(tiny_dit, steps=2, rows=4)
    with foreseer.attach(tiny_dit, "reuse") as attached, attached.run(num_steps=4):
        walk(tiny_dit, steps=2)
        assert torch.equal(walk(tiny_dit, steps=2, rows=4)[0], bare[0])
    assert [(report.run.rows, len(report.outcomes)) for report in attached.reports.values()] == [(6, 2), (4, 2)]


def test_second_attachment_is_refused_and_names_the_first(tiny_dit):
    before = walk(tiny_dit)
    with foreseer.attach(tiny_dit, "reuse", interval=2), pytest.raises(foreseer.ContractError, match="reuse:interval=2"):
        foreseer.attach(tiny_dit, "speca")
    assert same(walk(tiny_dit), before)
    foreseer.attach(tiny_dit, "speca").detach()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: foreseer.attach(m, "tailorseer"), foreseer.PluginError, "did you mean 'taylorseer'"),
        (lambda m: foreseer.attach(m, "taylorseer", intervall=3), foreseer.OptionError, "did you mean 'interval'"),
        (lambda m: foreseer.attach(m, "taylorseer", interval=0), foreseer.OptionError, "interval=0 .* whole number >= 1"),
        (lambda m: foreseer.attach(m, "cg_taylor", decide="rows"), foreseer.OptionError, "'row', 'batch'"),
        (lambda m: foreseer.attach(m, taylor()), foreseer.PluginError, "pass the factory"),
        (lambda m: foreseer.attach(m, lambda: object()), foreseer.PluginError, "implements no hook"),
        (lambda m: foreseer.attach(nn.Linear(2, 2), "none"), foreseer.UnsupportedModelError, "no list of blocks"),
        (lambda m: foreseer.attach(m, "none", blocks="nope"), foreseer.UnsupportedModelError, "transformer_blocks"),
        (lambda m: foreseer.attach("model", "none"), foreseer.UnsupportedModelError, "torch.nn.Module"),
        (lambda m: foreseer.attach(m, "none", on_error="ignore"), ValueError, "'raise' or 'compute'"),
        (lambda m: foreseer.attach(m, "none", observers=[object()]), foreseer.PluginError, "implements no hook"),
    ],
)
def test_bad_input_gets_one_clear_error_and_leaves_the_model(call, error, says, tiny_dit):
    before = walk(tiny_dit)
    with pytest.raises(error, match=says):
        call(tiny_dit)
    assert same(walk(tiny_dit), before)
    foreseer.attach(tiny_dit, "none").detach()


def test_pipeline_is_pointed_to_its_model():
    class Pipe:
        transformer = nn.Linear(1, 1)

    with pytest.raises(foreseer.UnsupportedModelError, match=r"pipe\.transformer"):
        foreseer.attach(Pipe(), "none")


def test_model_with_two_lists_wants_a_name():
    model = nn.Module()
    model.a = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    model.b = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    with pytest.raises(foreseer.UnsupportedModelError, match="blocks='a' or 'b'"):
        foreseer.attach(model, "none")
    foreseer.attach(model, "none", blocks="b").detach()


def test_blocks_that_return_several_tensors_are_driven():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.full((), 1.5), requires_grad=False)

        def forward(self, x, context):
            return x * self.w, None, context + x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Two() for _ in range(3))

        def forward(self, x):
            context = x
            for block in self.blocks:
                x, _, context = block(x, context)
            return x + context

    model, x = Model(), torch.ones(2, 2)
    truth = model(x)
    for text in ("taylorseer:target=last_block", "cg_taylor:threshold=0.5", "speca:threshold=0.5,target=last_block", "taylorseer:target=output"):
        with foreseer.attach(model, foreseer.registry.parse_policy(text)) as attached, attached.run(num_steps=12):
            assert all(torch.allclose(model(x), truth) for _ in range(12))
        assert len(attached.report.full_steps) < 12, text
        assert not attached.report.warnings


def test_residuals_added_outside_of_the_blocks_are_noticed_and_the_output_is_forecast_instead():
    model = Plain().eval().requires_grad_(False)
    calls = [(torch.ones(2, 3, 8) * (1 + 0.01 * step), torch.full((2,), float(step + 1))) for step in range(8)]
    truth = [model(*c) for c in calls]
    for text in ("taylorseer:target=last_block", "cg_taylor:threshold=0.5"):
        with foreseer.attach(model, foreseer.registry.parse_policy(text)) as attached, attached.run(num_steps=8):
            outputs = [model(*c) for c in calls]
        assert any("its output is forecast instead" in warning for warning in attached.report.warnings)
        assert len(attached.report.full_steps) < 8
        assert all(torch.equal(outputs[step], truth[step]) for step in attached.report.full_steps)
    with foreseer.attach(model, "speca", target="last_block") as attached, attached.run(num_steps=8):
        with pytest.raises(foreseer.UnsupportedModelError, match="cannot be driven: its output changes"):
            model(*calls[0])
    assert torch.equal(model(*calls[0]), truth[0])


def test_block_that_returns_something_else_is_refused_at_the_first_step():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()), requires_grad=False)

        def forward(self, x):
            return {"x": getattr(x, "x", x), "why": object()}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Odd() for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)["x"]
            return {"x": x, "why": object()}

    model = Model()
    with foreseer.attach(model, "taylorseer") as attached, attached.run(num_steps=2):
        with pytest.raises(foreseer.UnsupportedModelError, match="returned a object"):
            model(torch.ones(2, 2))


@pytest.mark.parametrize(("groups", "says"), [(4, "do not divide"), ([0, 1], "2 labels for the 6 rows")])
def test_groups_that_do_not_fit_are_refused(groups, says, tiny_dit):
    with pytest.raises(foreseer.ContractError, match=says), foreseer.attach(tiny_dit, "none") as attached, attached.run(num_steps=1, groups=groups):
        walk(tiny_dit, steps=1)


def test_groups_make_pairs_share_one_fate(tiny_dit):
    _, report = run(tiny_dit, "cg_taylor:threshold=0.02", groups=3)
    assert report.run.groups == (0, 1, 2, 0, 1, 2)
    assert np.array_equal(report.computed[:, :3], report.computed[:, 3:])
    assert 0 < report.computed.mean() < 1


def test_gradients_are_never_silently_lost():
    model = Plain().train()
    with foreseer.attach(model, "taylorseer", interval=4) as attached, attached.run(num_steps=6):
        for step in range(6):
            model(torch.ones(2, 8), torch.full((2,), float(step))).sum().backward()
    assert attached.report.full_steps == list(range(6))
    assert any("no_grad" in w for w in attached.report.warnings)
    assert all(p.grad is not None for p in model.parameters())


def test_calls_outside_of_a_run_are_computed_and_counted(tiny_dit):
    before = walk(tiny_dit)
    with foreseer.attach(tiny_dit, "reuse") as attached:
        with pytest.raises(foreseer.ContractError, match="nothing has run yet"):
            attached.report  # noqa: B018
        with attached.run(num_steps=3):
            walk(tiny_dit, steps=3)
        assert same(walk(tiny_dit), before)
        assert any(f"{STEPS} calls came outside" in w for w in attached.report.warnings)


def test_report_grows_while_a_run_is_under_way(tiny_dit):
    with foreseer.attach(tiny_dit, "reuse", interval=2) as attached, attached.run(num_steps=4):
        walk(tiny_dit, steps=1)
        assert attached.report.full_steps == [0]
        assert not attached.report.finished
        walk(tiny_dit, steps=3)
        assert attached.report.full_steps == [0, 2]


def test_nested_runs_and_runs_after_detaching_are_refused(tiny_dit):
    attached = foreseer.attach(tiny_dit, "none")
    with attached.run(), pytest.raises(foreseer.ContractError, match="under way"), attached.run():
        pass
    attached.detach()
    attached.detach()
    with pytest.raises(foreseer.ContractError, match="detached"), attached.run():
        pass


def test_compiling_after_attaching_is_noticed(tiny_dit):
    with foreseer.attach(tiny_dit, "reuse") as attached:
        tiny_dit.transformer_blocks[1].compile(backend="eager")
        with pytest.raises(foreseer.ContractError, match="attach last"), attached.run():
            pass


def test_compiled_blocks_are_driven_and_left_compiled(tiny_dit):
    truth, _ = run(tiny_dit, "taylorseer:interval=3,target=last_block")
    for block in tiny_dit.transformer_blocks:
        block.compile(backend="eager", fullgraph=True)
    compiled = [b._compiled_call_impl for b in tiny_dit.transformer_blocks]
    outputs, report = run(tiny_dit, "taylorseer:interval=3,target=last_block")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs, truth, strict=True))
    assert report.full_steps == [0, 1, 4, 7, 10]
    assert [b._compiled_call_impl for b in tiny_dit.transformer_blocks] == compiled


def test_host_that_writes_into_features_in_place_is_seen_and_survived():
    """A recorded feature must be what the block returned, not what the model made of it afterwards."""

    class InPlace(Plain):
        def forward(self, x, t):
            for layer in self.layers:
                x = layer(x)
                x *= 1 + t.view(-1, 1) / 100
            return self.head(x)

    model = InPlace().eval().requires_grad_(False)
    inputs = [(torch.full((2, 8), 0.3), torch.full((2,), float(s))) for s in range(4)]
    truth = [model(*i) for i in inputs]
    with foreseer.attach(model, "reuse", interval=2, target="last_block") as attached, attached.run(num_steps=4):
        outputs = [model(*i) for i in inputs]
    assert attached.report.full_steps == [0, 2]
    for step in (0, 2):
        assert torch.equal(outputs[step], truth[step])
    head = model.head(model.layers[-1](torch.zeros(2, 8)))  # any call: the model is free again
    assert head.shape == (2, 8)
    reused = outputs[1] - model.head.bias
    assert torch.allclose(reused / (truth[0] - model.head.bias), torch.full((2, 8), 1.01), atol=1e-3), "the live scale of step 1 on the feature of step 0"


def test_inference_mode(tiny_dit):
    with foreseer.attach(tiny_dit, "taylorseer", interval=3) as attached, attached.run(num_steps=STEPS), torch.inference_mode():
        for step in range(STEPS):
            args, kwargs = dit_inputs(step)
            tiny_dit(*args, **kwargs)
    expected, report = run(tiny_dit, "taylorseer:interval=3")
    assert attached.report.full_steps == report.full_steps
    assert len(expected) == STEPS


def test_two_threads_on_one_model_are_refused(tiny_dit):
    inside, go_on, errors = threading.Event(), threading.Event(), []
    handle = tiny_dit.transformer_blocks[1].register_forward_hook(lambda *a: (inside.set(), go_on.wait(10))[0])

    def first():
        walk(tiny_dit, steps=1)

    with foreseer.attach(tiny_dit, "reuse") as attached, attached.run(num_steps=2):
        thread = threading.Thread(target=first)
        thread.start()
        inside.wait(10)
        handle.remove()
        try:
            walk(tiny_dit, steps=1)
        except foreseer.ContractError as error:
            errors.append(str(error))
        go_on.set()
        thread.join()
    assert any("a second evaluation" in e for e in errors)


def test_half_precision_features_are_summed_in_float32(tiny_dit):
    model = tiny_dit.to(torch.bfloat16)
    with foreseer.attach(model, "taylorseer", interval=3, max_order=3) as attached, attached.run(num_steps=STEPS), torch.no_grad():
        for step in range(STEPS):
            (x, t), kwargs = dit_inputs(step)
            out = model(x.bfloat16(), t, **kwargs).sample
            assert out.dtype == torch.bfloat16
            assert torch.isfinite(out).all()
    assert attached.report.full_steps == [0, 1, 4, 7, 10]


def test_a_gate_of_ones_own_with_any_predictor(tiny_dit):
    class EveryThird:
        @hookimpl
        def setup(self, run):
            return foreseer.Needs(sites=tuple(s for s in run.sites if s.part != "block"))

        @hookimpl
        def before_step(self, step):
            sites = tuple(Site(b, p) for b in range(4) for p in ("attn", "mlp"))
            return None if step.index % 3 == 0 else Plan(forecast=sites)

    with foreseer.attach(tiny_dit, lambda: (EveryThird(), taylor(max_order=1))) as attached, attached.run():
        walk(tiny_dit)
    assert attached.report.full_steps == [0, 3, 6, 9]


def test_dead_attachment_frees_its_model():
    import gc
    import weakref

    model = Plain()
    alive = weakref.ref(model)
    attached = foreseer.attach(model, "none")
    attached.detach()
    del attached, model
    gc.collect()
    assert alive() is None


class Writes(nn.Module):
    """Adds to the output of one of its blocks in place."""

    def __init__(self, behind):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))
        self.behind = behind

    def forward(self, x):
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.behind:
                x += 1.0
        return x * 2


@pytest.mark.parametrize("where", ["behind the last block", "behind the first block"])
@pytest.mark.parametrize(
    "text", ["reuse:interval=3,target=last_block", "taylorseer:interval=3,max_order=1,target=last_block,warmup_steps=1", "cg_taylor:threshold=0.5"]
)
def test_a_model_that_writes_into_its_blocks_outputs_spoils_no_history(text, where):
    """Constant input: whatever is forecast from clean features is the same in every step."""
    model, x = Writes(3 if "last" in where else 0).eval().requires_grad_(False), torch.linspace(-1, 1, 8).view(2, 4)
    truth = model(x)
    with foreseer.attach(model, foreseer.registry.parse_policy(text)) as attached, attached.run(num_steps=9):
        outputs = [model(x) for _ in range(9)]
    assert len(attached.report.full_steps) < 9
    assert all(torch.allclose(output, truth, atol=1e-6) for output in outputs)


def test_rows_that_resume_behind_a_written_output_keep_clean_features():
    class Once:
        @hookimpl
        def setup(self, run):
            return foreseer.Needs(sites=(Site(0), Site(3)))

        @hookimpl
        def before_step(self, step):
            return Plan(forecast=(Site(0), Site(3)), probe=foreseer.Probe(0))

        @hookimpl
        def verify(self, step, evidence):
            error = (evidence.computed - evidence.forecast).abs().flatten(1).sum(1)
            refused = torch.tensor([step.index == 2, False])
            return foreseer.Verdict(error, ~refused, 1.0)

    model, x = Writes(0).eval().requires_grad_(False), torch.linspace(-1, 1, 8).view(2, 4)
    with foreseer.attach(model, lambda: (Once(), taylor(max_order=0))) as attached, attached.run(num_steps=6):
        for _ in range(6):
            model(x)
    assert attached.report.computed[2].tolist() == [True, False]
    assert np.nanmax(attached.report.error) < 1e-6


def test_gradients_of_tensors_inside_of_lists_are_seen():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, xs):
            x = torch.stack(xs)
            for block in self.blocks:
                x = block(x)
            return x

    model = Model().requires_grad_(False)
    xs = [torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)]
    with foreseer.attach(model, "taylorseer", target="last_block") as attached, attached.run(num_steps=5):
        assert all(model(xs).requires_grad for _ in range(5))
    assert any("gradients are enabled" in warning for warning in attached.report.warnings)


@foreseer.options.checked
def copies_of_its_own(*, copies: int = 1):
    return foreseer.policy("none")()[0]


def test_an_argument_that_may_be_the_policys_is_refused() -> None:
    """Law: a keyword is attach's or the policy's; where both have it, the policy's is written into its text."""
    pipe = TINY["FluxPipeline"].build()
    with pytest.raises(foreseer.OptionError, match="copies=2 is an argument of attach, and policy 'copies_of_its_own' has"):
        foreseer.attach(pipe, copies_of_its_own, copies=2)
    with foreseer.attach(pipe, foreseer.policy(copies_of_its_own, copies=3), copies=2):
        pass
    with foreseer.attach(pipe, "taylorseer:interval=3", max_order=1) as attached:
        assert str(attached.spec) == "taylorseer:interval=3,max_order=1"
