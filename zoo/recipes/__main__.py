"""Train the models of the zoo, and write their cards.

    python -m foreseer.zoo.recipes train-dit --out runs/dit
    python -m foreseer.zoo.recipes card-dit --model zoo/dit_digits

The defaults made the weights and the cards that ship. A recipe is seeded and resumable: the same command goes
on from the last checkpoint in ``--out``. A card's numbers are measured by the command that writes it, from
``weights.safetensors``, ``config.json`` and the training logs in its folder; ``curve.png`` and
``samples.png`` are drawn beside it, and the figures are printed as JSON. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from foreseer.zoo.recipes import classifier, dit, fashion, flux, wan
from foreseer.zoo.recipes.card import write

RECIPES: dict[str, Any] = {"classifier": classifier, "dit": dit, "fashion": fashion, "flux": flux, "wan": wan}
"""What differs: `STAGES` and `SAMPLING` are the defaults, ``train`` trains and ``card`` measures."""
HERE = "python -m foreseer.zoo.recipes"


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=HERE, description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, recipe in RECIPES.items():
        command = commands.add_parser(f"train-{name}", description=recipe.__doc__, formatter_class=form)
        command.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and weights")
        for stage, settings in recipe.STAGES.items():
            _add_options(command, settings, stage and f"{stage}-")
        command = commands.add_parser(f"card-{name}")
        command.add_argument("--model", type=Path, required=True, help="folder that the recipe wrote to")
        made = f"{HERE} train-{name} --out DIR"
        command.add_argument("--recipe", default=made, help="the command that trained it")
        if recipe.SAMPLING:
            _add_options(command, recipe.SAMPLING)
    given = vars(parser.parse_args(argv))
    task, _, name = given["command"].partition("-")
    recipe = RECIPES[name]
    if task == "train":
        stages = {stage: _changed(old, given, stage and f"{stage}_") for stage, old in recipe.STAGES.items()}
        recipe.train(given["out"], *stages.values())
        words = [_words(old, stages[stage], stage and f"{stage}-") for stage, old in recipe.STAGES.items()]
        trained = " ".join([HERE, given["command"], "--out DIR", *itertools.chain(*words)])
        print(f"Its card: {HERE} card-{name} --model {given['out']} --recipe '{trained}'")
    else:
        if recipe.SAMPLING and given["per_class"] < 1:
            parser.error(f"--per-class {given['per_class']} is out of range; write a whole number >= 1")
        sampling = recipe.SAMPLING and _changed(recipe.SAMPLING, given)
        figures = recipe.card(given["model"], sampling)
        write(name, given["model"], figures, sampling=sampling, recipe=given["recipe"])
        print(json.dumps(figures, indent=1))


def _add_options(command: argparse.ArgumentParser, defaults: Any, prefix: str = "") -> None:
    for name, value in attrs.asdict(defaults).items():
        kind = float if isinstance(value, float) else int
        flag = f"--{prefix}{name}".replace("_", "-")
        command.add_argument(flag, type=kind, default=value, help=f"default: {value}")


def _changed(defaults: Any, given: dict[str, Any], prefix: str = "") -> Any:
    return attrs.evolve(defaults, **{name: given[prefix + name] for name in attrs.asdict(defaults)})


def _words(defaults: Any, now: Any, prefix: str) -> Iterator[str]:
    for name, value in attrs.asdict(now).items():
        if value != getattr(defaults, name):
            yield f"--{prefix}{name}".replace("_", "-") + f" {value}"


if __name__ == "__main__":
    main()
