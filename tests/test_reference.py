"""The released code of three papers, reproduced: same full steps, same samples."""

import numpy as np
import pytest
import torch

import foreseer

CASES = ["full", "taylorseer_n3_o3", "taylorseer_n5_o2", "cg_taylor_e0.02", "cg_taylor_e0.1", "speca_sample"]


@torch.no_grad()
def ddim(model, noise, labels, timesteps, guidance):
    """The sampler of the cases, as their description states it; written apart from the package's own."""
    schedule = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x = torch.from_numpy(noise)
    classes = torch.from_numpy(labels).long()
    classes = torch.cat([classes, torch.full_like(classes, 10)])
    for i, t in enumerate(timesteps):
        e = model(torch.cat([x, x]), torch.full((len(classes),), int(t)), class_labels=classes).sample[:, :1]
        cond, uncond = e.chunk(2)
        e = uncond + guidance * (cond - uncond)
        a, a_next = schedule[t], schedule[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0
        x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
        x = a_next**0.5 * x0 + (1 - a_next) ** 0.5 * e
    return x.numpy()


@pytest.mark.parametrize("name", CASES)
def test_released_code_is_reproduced(name, reference_model, reference_cases):
    described, arrays = reference_cases
    case = dict(described[name])
    policy = "speca_released" if case.get("variant") == "released code" else case["policy"]
    options = {k: v for k, v in case.items() if k not in ("policy", "variant", "batch", "guidance", "metric")}
    if policy == "cg_taylor":
        options["decide"] = "batch"
    with foreseer.attach(reference_model, policy, **options) as attached, attached.run(timesteps=arrays["timesteps"]):
        samples = ddim(reference_model, arrays["noise"], arrays["labels"], arrays["timesteps"], case["guidance"])
    assert attached.report.full_steps == arrays[f"{name}/full_steps"].tolist()
    assert np.abs(samples - arrays[f"{name}/samples"]).max() < 5e-4


def test_every_case_is_tested(reference_cases):
    assert set(CASES) == set(reference_cases[0])
