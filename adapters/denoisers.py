"""Which models of a pipeline a policy drives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from foreseer.errors import UnsupportedModelError

__all__ = ["find_denoisers"]


def find_denoisers(target: Any) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Return the models to drive by their names, and the other modules of a pipeline.

    Driven are those called ``transformer...``, and those of the same classes under another name
    (``unconditional_transformer``). A module is driven itself, under the name "", and those of a mapping are
    under their names there.

    Raises:
        UnsupportedModelError: There is none, or the pipeline has no scheduler.
    """
    if isinstance(target, nn.Module):
        return {"": target}, {}
    if isinstance(target, Mapping) and target and all(isinstance(part, nn.Module) for part in target.values()):
        if len({id(part) for part in target.values()}) < len(target):
            raise UnsupportedModelError(f"one module has two names among {', '.join(map(str, target))}; give it once")
        return dict(target), {}
    components = getattr(target, "components", None)
    found, others = {}, {}
    if isinstance(components, Mapping) and hasattr(target, "scheduler"):
        modules: dict[str, nn.Module] = {}
        for name, part in sorted({**vars(target), **components}.items(), key=lambda item: not item[0].startswith("transformer")):
            if isinstance(part, nn.Module) and not any(part is known for known in modules.values()):  # one module under two names is one
                modules[name] = part
        kinds = {type(part) for name, part in modules.items() if name.startswith("transformer")}
        found = {name: part for name, part in modules.items() if type(part) in kinds}
        others = {name: part for name, part in modules.items() if name not in found}
        driven = {id(part) for part in found.values()}
        for path, part in _inside({**vars(target), **components}):
            if type(part) in kinds and id(part) not in driven:
                others.setdefault(path, part)
    if not found:
        inner = getattr(target, "transformer", None)
        hint = "; attach to its model: foreseer.attach(pipe.transformer, ...)" if isinstance(inner, nn.Module) else ""
        if inner is None and hasattr(target, "load_components"):
            hint = "; a modular pipeline has them after load_components() or update_components(transformer=..., scheduler=...)"
        raise UnsupportedModelError(
            f"cannot attach to a {type(target).__name__}: a diffusers pipeline with a scheduler and a transformer, or a torch.nn.Module is needed, "
            f"or several by their names{hint}"
        )
    if target.scheduler is None:
        raise UnsupportedModelError(
            f"the scheduler of this {type(target).__name__} is None; give it one before attaching, since its steps are those of the run"
        )
    return found, others


def _inside(holders: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """The modules inside of what a pipeline holds: of modules, lists, dictionaries and other objects, by
    their paths.
    """
    for name, holder in holders.items():
        if isinstance(holder, nn.Module):
            held: Mapping[Any, Any] = {"": holder}
        elif isinstance(holder, (list, tuple)):
            held = dict(enumerate(holder))
        else:
            held = holder if isinstance(holder, Mapping) else getattr(holder, "__dict__", {})
        for key, part in held.items():
            if isinstance(part, nn.Module):
                for path, module in part.named_modules():
                    yield ".".join(filter(None, (name, str(key), path))), module
