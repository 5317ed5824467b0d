"""Finding a denoiser's blocks."""

from __future__ import annotations

from collections import Counter

from torch import nn

from foreseer.errors import UnsupportedModelError

__all__ = ["find_blocks"]

_MAIN = frozenset(
    {
        "blocks",
        "decoders",
        "double_blocks",
        "double_stream_blocks",
        "joint_transformer_blocks",
        "layers",
        "mode_blocks",
        "single_blocks",
        "single_stream_blocks",
        "single_transformer_blocks",
        "temporal_transformer_blocks",
        "transformer_blocks",
        "transformer_layers",
        "visual_transformer_blocks",
    }
)
"""Names under which models keep the blocks that the denoised stream passes through. What is not here
(refiners, blocks of a text stream or a control branch, resamplers) prepares its input and is always
computed."""


def find_blocks(model: nn.Module, name: str | None = None) -> list[tuple[str, nn.Module]]:
    """Return the path and module of each block of a model, in the order in which they are declared.

    Args:
        model: The denoiser.
        name: Dotted path of a list (an `nn.ModuleList` or `nn.Sequential`), or several separated by commas.
            None to find them: the lists known by name that lie together nearest to the root, as in diffusers'
                models; else
            the longest `nn.ModuleList` of at least two modules of one class that is not inside another such
            list.

    Raises:
        UnsupportedModelError: There is no such list, several are equally long, or a block occurs twice; the
            message lists what there is.
    """
    named = [pair for path in (name or "").split(",") if path for pair in _named(model, path.strip())]
    found = named or _known(model) or _longest(model)
    if len({id(block) for _, block in found}) < len(found):
        raise UnsupportedModelError(f"{type(model).__name__} holds one block several times; a site would have several features per step")
    return found


def _named(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    try:
        found = model.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, (nn.ModuleList, nn.Sequential)) or not len(found):
        raise UnsupportedModelError(f"blocks={path!r}: {type(model).__name__} has no list of modules there; it has {_text(_lists(model))}")
    return [(f"{path}.{i}", block) for i, block in enumerate(found)]


def _known(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Blocks of the lists that are known by name, at the one place nearest to the root that has any."""
    places: dict[str, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        place, _, leaf = path.rpartition(".")
        if place and isinstance(model.get_submodule(place), nn.ModuleDict):  # a list for each kind of token (FLUX.3)
            place, _, leaf = place.rpartition(".")
        inside = any(path.startswith(f"{outer}.") for found in places.values() for outer in {p.rpartition(".")[0] for p, _ in found})
        if isinstance(module, nn.ModuleList) and leaf in _MAIN and len(module) and not inside and any(True for _ in module[0].parameters()):
            places.setdefault(place, []).extend((f"{path}.{i}", block) for i, block in enumerate(module))
    if not places:
        return []
    nearest = min(path.count(".") + bool(path) for path in places)
    best = [found for path, found in places.items() if path.count(".") + bool(path) == nearest]
    return max(best, key=len)


def _longest(model: nn.Module) -> list[tuple[str, nn.Module]]:
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
    path, blocks = best[0]
    return [(f"{path}.{i}", block) for i, block in enumerate(blocks)]


def _lists(model: nn.Module) -> dict[str, list[nn.Module]]:
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not any(path.startswith(f"{outer}.") for outer in found):
            classes = Counter(type(block) for block in module)
            if len(classes) == 1 and any(True for _ in module[0].parameters()):
                found[path] = list(module)
    return found


def _text(lists: dict[str, list[nn.Module]]) -> str:
    return ", ".join(f"{path!r} ({len(blocks)} x {type(blocks[0]).__name__})" for path, blocks in lists.items()) or "none"
