"""Which target is nearest to the image without a policy, on each tiny model: ``python targets.py``."""

from __future__ import annotations

import engine

ORDERS, TARGETS, SEEDS = (0, 1), ("last_block", "residual"), (7, 8)


def main() -> None:
    engine.start()
    import torch
    from foreseer_comfyui.handle import Handle
    from foreseer_comfyui.sampling import Applied
    from tiny_comfy import TINY, Asked, patcher_of, sampled

    import foreseer

    torch.set_num_threads(1)
    print("error over the image, dB below it; interval 3 of 20 steps; by seed")
    for name in TINY:
        patcher, told = patcher_of(name), []
        for order in ORDERS:
            for target in TARGETS:
                spec, found = foreseer.policy(f"taylorseer:interval=3,max_order={order},target={target}"), []
                for seed in SEEDS:
                    asked = Asked(name=name, steps=20, seed=seed)
                    bare, image = sampled(patcher, asked), sampled(Applied(spec=spec, handle=Handle()).put_on(patcher), asked)
                    found.append(-20 * float(torch.log10((image - bare).norm() / bare.norm())))
                told.append(f"{target} of order {order}: {', '.join(f'{value:.1f}' for value in found)}")
        print(f"{name}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
