"""What the node costs beyond `attach`, in processor time: ``python overhead.py``."""

from __future__ import annotations

import statistics
import time
import uuid

import engine

EVALUATIONS, ATTACHMENTS = 2000, 9


def main() -> None:
    engine.start()
    import torch
    from foreseer_comfyui.handle import Handle
    from foreseer_comfyui.sampling import Applied, _UnderWay
    from tiny_comfy import Asked, patcher_of, sampled

    import foreseer

    torch.set_num_threads(1)
    patcher = patcher_of("Flux")
    sampled(patcher, Asked(steps=2))
    model, applied = patcher.model.diffusion_model, Applied(spec=foreseer.policy("none"), handle=Handle())
    call = {"cond_or_uncond": [1, 0], "uuids": [uuid.uuid4(), uuid.uuid4()]}
    x, sigma = torch.zeros(2, 16, 8, 8), torch.tensor([0.5])
    with foreseer.attach(model, "none") as attached, attached.generation(num_steps=EVALUATIONS) as generation:
        applied._under_way = _UnderWay(generation, 1.0, 0.0)
        began = time.process_time()
        for _ in range(EVALUATIONS):
            applied.around_evaluation(lambda *args: applied.around_call(lambda *given, **named: None, x, sigma, transformer_options=call), x, sigma)
        print(f"{1e6 * (time.process_time() - began) / EVALUATIONS:.1f} us for each evaluation with one call of the model")
    findings, taken = None, []
    for _ in range(ATTACHMENTS):
        began = time.process_time()
        with foreseer.attach(model, "taylorseer:target=residual", findings=findings) as attached:
            findings = attached.findings
        taken.append(1e3 * (time.process_time() - began))
    print(f"{statistics.median(taken):.1f} ms for each sampling: attach, take over and hand on what was found out, detach")


if __name__ == "__main__":
    main()
