"""Finding a module's list of blocks."""

from __future__ import annotations

from collections import Counter

from torch import nn

from foreseer.errors import UnsupportedModelError

__all__ = ["find_blocks"]


def find_blocks(model: nn.Module, name: str | None = None) -> tuple[str, list[nn.Module]]:
    """Return the block list of a model: its attribute path and the blocks in it.

    Args:
        model: The denoiser.
        name: Dotted path of the list (an `nn.ModuleList` or `nn.Sequential`), or None to take the only candidate: the
            longest `nn.ModuleList` of at least two modules of one class that is not inside another such list.

    Raises:
        UnsupportedModelError: There is no such list, or several are equally long; the message lists what there is.
    """
    if name is not None:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            found = None
        if not isinstance(found, (nn.ModuleList, nn.Sequential)) or not len(found):
            raise UnsupportedModelError(f"blocks={name!r}: {type(model).__name__} has no list of modules there; it has {_candidates_text(_lists(model))}")
        return name, list(found)
    lists = _lists(model)
    longest = max((len(blocks) for blocks in lists.values()), default=0)
    best = [(path, blocks) for path, blocks in lists.items() if len(blocks) == longest]
    if not best:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no list of blocks (an nn.ModuleList of at least two modules of one class); "
            "foreseer forecasts features between blocks and cannot attach to it"
        )
    if len(best) > 1:
        raise UnsupportedModelError(f"{type(model).__name__} has several lists of blocks; name one: blocks={' or '.join(repr(p) for p, _ in best)}")
    return best[0]


def _lists(model: nn.Module) -> dict[str, list[nn.Module]]:
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not any(path.startswith(f"{outer}.") for outer in found):
            classes = Counter(type(block) for block in module)
            if len(classes) == 1 and any(True for _ in module[0].parameters()):
                found[path] = list(module)
    return found


def _candidates_text(lists: dict[str, list[nn.Module]]) -> str:
    return ", ".join(f"{path!r} ({len(blocks)} x {type(blocks[0]).__name__})" for path, blocks in lists.items()) or "none"
