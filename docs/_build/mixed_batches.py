"""Does deciding per sample gain at equal cost, where samples differ? On the Fashion-MNIST DiT, in batches of
which one half are trousers, all alike, and the other pullovers, dresses, shirts and bags, which are patterned.

    python docs/_build/mixed_batches.py measure --out docs/results/mixed_batches.json
    python docs/_build/mixed_batches.py tell --out docs/results/mixed_batches.json

Each gate draws the same samples at several thresholds, deciding per sample and by one vote for the batch. A
lane that decides per sample is compared with the lanes that vote, at its block-rows, sample by sample. How
much could be gained at most is said by `agreement` with budgets of 8 to 24 steps: each sample gets the budget
that is best for all, chosen with the samples' errors known, within what an equal budget costs. Measuring goes
on where it was stopped; about ten minutes on a core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import foreseer
from foreseer.bench.summary import standard_errors
from foreseer.bench.workload import noise_of
from foreseer.psnr import counted_psnr, decibels, psnr
from foreseer.zoo import load_fashion
from foreseer.zoo.ddim import ddim_sample, ddim_timesteps
from foreseer.zoo.fashion import CLASSES

Array = NDArray[np.float64]
PLAIN, PATTERNED = 1, (2, 3, 6, 8)  # of `CLASSES`
BATCH, STEPS, GUIDANCE = 16, 50, 1.5
GATES = {
    "cg_taylor:target=residual_after_first": ("threshold", (0.03, 0.05, 0.09, 0.15)),
    "speca:max_order=1,threshold_decay=1,max_draft_steps=None": ("threshold", (0.02, 0.04, 0.08, 0.15)),
    "agreement": ("tolerance", (0.12, 0.2, 0.35, 0.6)),
}
BUDGETS = (8, 10, 12, 14, 17, 20, 24)
FIXED = ("taylorseer:interval=4,max_order=1,warmup_steps=3,target=residual", "taylorseer:interval=3,max_order=1,warmup_steps=3,target=residual")


def policies() -> Iterator[str]:
    """All that is measured."""
    for gate, (option, values) in GATES.items():
        for value in values:
            for decide in ("row", "batch"):
                yield f"{gate}{',' if ':' in gate else ':'}{option}={value},decide={decide}"
    yield from (f"agreement:steps={budget}" for budget in BUDGETS)
    yield from FIXED


def labels_of(samples: int) -> torch.Tensor:
    """Trousers and patterned ones in turn, so that each batch has as many of both."""
    return torch.tensor([PLAIN if i % 2 == 0 else PATTERNED[i // 2 % len(PATTERNED)] for i in range(samples)])


def measure(path: Path, samples: int) -> None:
    """Draw what the file does not have yet, batch by batch."""
    model, timesteps, labels = load_fashion(), ddim_timesteps(STEPS), labels_of(samples)
    noise = noise_of(range(samples), seed=0, shape=(1, 28, 28))
    batches = list(zip(torch.split(noise, BATCH), torch.split(labels, BATCH), strict=True))
    kept = json.loads(path.read_text()) if path.exists() else {}
    whole: dict[int, torch.Tensor] = {}

    def draw(index: int) -> torch.Tensor:
        return ddim_sample(model, *batches[index], timesteps, guidance=GUIDANCE, prediction="v_prediction")

    for policy in policies():
        found = kept.setdefault(policy, {"psnr": [], "steps": [], "cost": []})
        for index in range(len(found["cost"]), len(batches)):
            whole[index] = draw(index) if index not in whole else whole[index]
            with foreseer.attach(model, policy) as attached, attached.run(timesteps=timesteps, groups=BATCH):
                drawn = draw(index)
            report = attached.report
            found["psnr"] += psnr(drawn, whole[index]).tolist()
            found["steps"] += report.computed[:, :BATCH].sum(0).tolist()
            found["cost"].append(report.block_rows_ratio)
            path.write_text(json.dumps(kept) + "\n")
        print(policy, f"{np.mean(found['cost']):.3f}", f"{np.mean(found['steps']):.1f}", f"{np.mean(found['psnr']):.2f}", flush=True)


def tell(path: Path) -> None:
    """Print what was found."""
    kept = json.loads(path.read_text())
    lanes = {name: {key: np.array(values) for key, values in lane.items()} for name, lane in kept.items()}
    for lane in lanes.values():
        lane["psnr"] = counted_psnr(lane["psnr"])
    samples = max(len(lane["psnr"]) for lane in lanes.values())
    every = (labels_of(samples) == PLAIN).numpy()
    patterned = ", ".join(CLASSES[label] for label in PATTERNED)
    print(f"{samples} samples, batches of {BATCH}: one half {CLASSES[PLAIN]}, the other {patterned}; {STEPS} steps, guidance {GUIDANCE}\n")
    print("policy | samples | block-rows | computed steps: mean, trousers, patterned, min-max, deviation | PSNR: mean, trousers, patterned, worst")
    for name, lane in lanes.items():
        steps, quality = lane["steps"], lane["psnr"]
        plain = every[: len(steps)]
        spread = f"{steps.mean():.1f}, {steps[plain].mean():.1f}, {steps[~plain].mean():.1f}, {steps.min():.0f}-{steps.max():.0f}, {steps.std(ddof=1):.2f}"
        print(f"{name} | {len(steps)} | {lane['cost'].mean():.3f} | {spread} | {_quality(quality, plain)}")
    print("\nper sample less one vote, at equal block-rows | mean, dB (noise within) | better on | trousers, patterned | worst | of mean squared error, dB")
    for gate, (option, values) in GATES.items():
        swept = {
            how: [lane for name, lane in lanes.items() if name.startswith(gate) and f"{option}=" in name and f"decide={how}" in name]
            for how in ("row", "batch")
        }
        for value, lane in zip(values, swept["row"], strict=True):
            if (beside := _at_cost(swept["batch"], lane["cost"].mean())) is not None:
                print(f"{gate} {option}={value} at {lane['cost'].mean():.3f} | {_difference(lane['psnr'], beside, every)}")
    print("\ndo those that decide for themselves compute more where one vote left more error? correlation of the steps and the PSNR: -1 if so")
    for name, lane in lanes.items():
        if "decide=row" in name:
            beside, steps = lanes[name.replace("decide=row", "decide=batch")]["psnr"], lane["steps"]
            print(f"{name}: {np.corrcoef(steps, beside)[0, 1]:+.2f}")
    budgets = [lanes[f"agreement:steps={budget}"] for budget in BUDGETS]
    curves = np.array([lane["psnr"] for lane in budgets])
    print("\nat most, with the errors known, over the same budget for all")
    for index, budget in enumerate(BUDGETS):
        for name, worth in (("mean PSNR", curves), ("mean squared error", -_errors(curves))):
            chosen = _allocate(worth, np.array(BUDGETS), budget)
            best = curves[chosen, np.arange(curves.shape[1])]
            spent = np.array(BUDGETS)[chosen]
            shares = f"{spent[every[: len(spent)]].mean():.1f} trousers, {spent[~every[: len(spent)]].mean():.1f} patterned"
            print(f"{budget} steps, for the {name}: {_difference(best, curves[index], every)}; {shares}")


def _quality(values: Array, plain: NDArray[np.bool_]) -> str:
    return f"{values.mean():.2f}, {values[plain].mean():.2f}, {values[~plain].mean():.2f}, {values.min():.2f}"


def _errors(values: Array) -> Array:
    found: Array = 4 * 10 ** (-values / 10)
    return found


def _difference(ours: Array, theirs: Array, plain: NDArray[np.bool_]) -> str:
    gap = ours - theirs
    plain = plain[: len(gap)]
    noise = standard_errors(len(gap)) * gap.std(ddof=1) / len(gap) ** 0.5
    of_errors = decibels(_errors(ours).mean(keepdims=True)) - decibels(_errors(theirs).mean(keepdims=True))
    parts = f"{gap[plain].mean():+.2f}, {gap[~plain].mean():+.2f}"
    return f"{gap.mean():+.2f} ({noise:.2f}) | {(gap > 0).mean():.0%} | {parts} | {ours.min() - theirs.min():+.2f} | {of_errors.item():+.2f}"


def _at_cost(lanes: list[dict[str, Any]], cost: float) -> Array | None:
    """Each sample's PSNR at a cost, between the two lanes beside it; None outside."""
    ordered = sorted(lanes, key=lambda lane: lane["cost"].mean())
    costs = [lane["cost"].mean() for lane in ordered]
    if not costs[0] <= cost <= costs[-1]:
        return None
    return np.array([np.interp(cost, costs, sample) for sample in np.array([lane["psnr"] for lane in ordered]).T])


def _allocate(worth: Array, budgets: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Which budget each sample gets so that the sum of what they are worth is largest, and the mean of the
    budgets is at most the one that is given: by the price of a step, found by bisection.
    """

    def at(price: float) -> NDArray[np.int64]:
        return np.argmax(worth - price * budgets[:, None], axis=0)

    low, high = 0.0, float(np.ptp(worth))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if budgets[at(middle)].mean() > budget else (low, middle)
    return at(high)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["measure", "tell"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64, help=f"a multiple of {BATCH}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], None]] = {"measure": lambda: measure(given.out, given.samples), "tell": lambda: tell(given.out)}
    tasks[given.task]()


if __name__ == "__main__":
    main()
