"""Quality measures: plugins, entry points of the group ``foreseer.measures``, that give each sample a number.

Four are taken always: PSNR, SSIM, layout and, of videos, PSNR of the frames' differences. Settings name others.
What one lacks, or raises, costs its own column and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np
import torch
from attrs.validators import in_
from numpy.typing import NDArray
from torch import Tensor

from foreseer.bench.figures import COUNTS, FIGURES, Figure
from foreseer.bench.layout import layout
from foreseer.errors import ForeseerError, OptionError, PluginError, in_one_line, in_words
from foreseer.listing import MEASURES, load_factory
from foreseer.psnr import DATA_RANGE, pair_of, psnr
from foreseer.registry import check_options
from foreseer.spelling import read_spec

__all__ = ["ALWAYS", "SSIM_WINDOW", "Call", "Measure", "Measures", "always", "check_measures", "load_measure", "load_measures", "names", "ssim"]

SSIM_WINDOW = 7
"""Side of SSIM's uniform window, pixels."""

Call = Callable[[Tensor, Tensor, Sequence[str]], Any]


@attrs.frozen(kw_only=True)
class Measure:
    """A number for each sample, and what a reader must know of it.

    Attributes:
        call: ``(own, full, conditions) -> (B,)`` numbers, as a tensor, an array or a list: of what a lane drew
            and what full computation drew from the same noise, both float32 on the CPU and in about [-1, 1],
            and of the words of each sample's condition, ``""`` where there are none. Full computation is asked
            too, and is then both. NaN is a number that does not exist; None says that these samples have no
            such number at all. Samples may be broken, that is hold NaN. What it raises costs the column in
            that lane.
        note: What it is, in a sentence.
        higher_is_better: Which end is the worst sample.
        title: For tables; empty for the name that was asked for.
        unit: ``"dB"`` or empty. Decibels are counted as PSNR is: a sample with at most 100, and with 0 for
            NaN.
        form: How a number is written, as Python's `format` takes it.
        of: What it is given. ``"samples"``: what the workload decodes, ``(B, C, H, W)`` images or
            ``(B, F, C, H, W)`` videos. ``"frames"``: images always; of videos each frame, with its video's
            words, and the mean over the frames counts. ``"videos"``: videos; images have no such number. Where
            a pipeline was asked for its latents, ``"samples"`` gets those, of whatever shape.
    """

    call: Call = attrs.field(repr=False)
    note: str
    higher_is_better: bool
    title: str = ""
    unit: str = attrs.field(default="", validator=in_(("", "dB")))
    form: str = ".3f"
    of: Literal["samples", "frames", "videos"] = attrs.field(default="samples", validator=in_(("samples", "frames", "videos")))

    def figure(self, name: str) -> Figure:
        """Return what tables say of it under a name."""
        return Figure(self.title or name, self.unit, self.higher_is_better, self.note, self.form)

    def take(self, own: Tensor, full: Tensor, conditions: Sequence[str]) -> tuple[float, ...] | None:
        """Return the number of each sample; None where samples as these have none.

        Args:
            own: ``(B, C, H, W)`` images or ``(B, F, C, H, W)`` videos; they are left as they are.
            full: The same of full computation.
            conditions: B texts.

        Raises:
            PluginError: It returned something else than B numbers.
            Exception: Whatever it raised.
        """
        video = own.ndim == 5
        if (self.of == "videos" and not video) or (self.of == "frames" and own.ndim not in (4, 5)):
            return None
        by_frame = video and self.of == "frames"
        frames = own.shape[1] if by_frame else 1
        # copies: what is given may be written to, and what was drawn is kept
        one, other = ((pictures.flatten(0, 1) if by_frame else pictures).clone() for pictures in (own, full))
        with torch.no_grad():
            found = self.call(one, other, [text for text in conditions for _ in range(frames)])
        if found is None:
            return None
        values = torch.as_tensor(found).detach().to("cpu", torch.float64)
        if values.shape != (len(one),):
            raise PluginError(f"it returned shape {tuple(values.shape)} for {len(one)} pictures; a measure returns one number for each")
        return tuple(values.view(len(own), frames).mean(1).tolist())


@attrs.frozen(kw_only=True)
class Measures:
    """The measures of one run.

    Attributes:
        named: By name, as they were asked for.
        missing: Of those that cannot be had here, why not and how to get them, in one line each.
    """

    named: Mapping[str, Measure]
    missing: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def figures(self) -> dict[str, Figure]:
        """What tables say of them, by name, but for what every table knows."""
        asked = {name: measure for name, measure in self.named.items() if name not in FIGURES}
        titles = Counter(measure.title for measure in asked.values())
        return {name: attrs.evolve(m, title=m.title if titles[m.title] == 1 else "").figure(name) for name, m in asked.items()}

    def take(self, own: Tensor, full: Tensor, conditions: Sequence[str], *, known: Iterable[str] = ()) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """Return the numbers by name, and of measures that raised what they raised, in one line each.

        Args:
            own: See `Measure.take`, as of the next two.
            full: Of full computation.
            conditions: B texts.
            known: Names that are left out.

        Raises:
            OptionError: ``own`` has another shape than ``full``, so that not even PSNR exists.
        """
        found: dict[str, tuple[float, ...]] = {}
        failed: dict[str, str] = {}
        for name in [name for name in self.named if name not in set(known)]:
            try:
                if (values := self.named[name].take(own, full, conditions)) is not None:
                    found[name] = values
            except Exception as error:  # a column is lost, not the lane
                if name == "psnr":  # but all that is said of a lane rests on this one
                    raise
                failed[name] = in_one_line(error)
        return found, failed


def load_measures(names: Iterable[str], *, own: Mapping[str, Measure] | None = None) -> Measures:
    """Build the measures of a run: those that are always taken, a workload's ``own``, and those that are named.

    One whose factory raises ImportError or OSError lacks a package or its weights, and is left out.

    Raises:
        PluginError, OptionError: As `load_measure`.
    """
    named, missing = {**always(), **(own or {})}, dict[str, str]()
    for name in dict.fromkeys(names):
        if name in named:
            continue
        try:
            named[name] = load_measure(name)
        except (ImportError, OSError) as error:
            missing[name] = " ".join(str(error).split()) or in_one_line(error)
    return Measures(named=named, missing=missing)


def load_measure(text: str) -> Measure:
    """Build the measure that a text names, with options as policies are written: ``"lpips:net=vgg"``.

    Raises:
        PluginError, OptionError: There is none of that name, it cannot be imported or built, or an option is
            wrong.
        ImportError, OSError: It lacks a package or its weights; the message says how to get them.
    """
    factory, options = _factory(text)
    try:
        built = factory(**options)
    except (ForeseerError, ImportError, OSError):
        raise
    except Exception as error:
        raise OptionError(f"measure {text!r} cannot be built: {in_words(error)}") from error
    if not isinstance(built, Measure):
        raise PluginError(
            f"measure {text!r} built a {type(built).__name__}; its entry point must name a function that returns a foreseer.bench.measures.Measure"
        )
    return built


def names(value: Any) -> Any:
    """Return what names measures as a tuple: one name, or several; anything else is left to be refused."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else value


def check_measures(settings: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Refuse names and options that no installed measure has; nothing is built.

    Raises:
        PluginError, OptionError: See `load_measure`.
    """
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        raise OptionError(f"{attribute.name}={value!r} is no list of names; write {attribute.name} = ['lpips']")
    for text in value:
        if text in COUNTS or (text in FIGURES and text not in ALWAYS):
            raise OptionError(f"{attribute.name}={text!r} is a figure of every table already; write distribution:{text} for a plugin of that name")
        _factory(text)


def _factory(text: str) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    name, options = read_spec(text)
    factory = load_factory(name, group=MEASURES)
    check_options(name, factory, options, kind="measure")
    return factory, options


def _known(name: str, call: Call, of: Literal["samples", "frames", "videos"] = "samples") -> Measure:
    return Measure(call=call, of=of, **attrs.asdict(FIGURES[name]))


def psnr_measure() -> Measure:
    """Peak signal-to-noise ratio to the same sample of full computation."""
    return _known("psnr", lambda own, full, conditions: psnr(own, full))


def ssim_measure() -> Measure:
    """Structural similarity to the same sample of full computation."""
    return _known("ssim", lambda own, full, conditions: ssim(own, full) if min(own.shape[2:]) >= SSIM_WINDOW else None, "frames")


def layout_measure() -> Measure:
    """How much of the layout is that of full computation."""
    return _known("layout", lambda own, full, conditions: layout(own, full), "frames")


def temporal_psnr() -> Measure:
    """PSNR of the differences between a video's consecutive frames."""
    return _known("temporal_psnr", lambda own, full, conditions: psnr(own.diff(dim=1), full.diff(dim=1)), "videos")


ALWAYS: Mapping[str, Callable[[], Measure]] = {"psnr": psnr_measure, "ssim": ssim_measure, "layout": layout_measure, "temporal_psnr": temporal_psnr}
"""What is taken whatever the settings name."""


def always() -> dict[str, Measure]:
    """Return the measures that are always taken, by name."""
    return {name: factory() for name, factory in ALWAYS.items()}


def ssim(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Return the ``(B,)`` float64 structural similarity of each sample, at most 1; NaN where one of the two
    is not finite.

    It is scikit-image's, with a uniform window of 7x7 pixels (``gaussian_weights=False``, since the Gaussian
    window of the original paper is 11 pixels wide and does not fit 8x8) and the sample covariance. Only
    windows that lie inside the image count: four of them in an 8x8 image, so that the border weighs less than
    the middle. Channels are averaged.

    ``a`` and ``b`` are ``(B, C, H, W)`` images in [-1, 1], of any float dtype, on any device, with H and W at
    least 7. They are not clipped. What is not float64 is computed in float32, as exactly as tables show and in
    a quarter of the time: 0.26 s of a core for 1024 x 1024 pixels in colour.

    Raises:
        OptionError: If the shapes differ, are not ``(B, C, H, W)``, or are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    x, y = pair_of(a, b)
    if x.ndim != 4 or min(x.shape[2:]) < SSIM_WINDOW:
        takes = f"SSIM takes (B, C, H, W) with H and W at least {SSIM_WINDOW}"
        raise OptionError(f"a and b have shape {x.shape}; {takes}; write larger images, or use psnr")
    found = np.full(len(x), np.nan)
    how = {"win_size": SSIM_WINDOW, "gaussian_weights": False, "data_range": DATA_RANGE, "channel_axis": 0}
    kind = np.float64 if torch.float64 in (a.dtype, b.dtype) else np.float32
    for i, (one, other) in enumerate(zip(x.astype(kind), y.astype(kind), strict=True)):
        if np.isfinite(one).all() and np.isfinite(other).all():
            found[i] = structural_similarity(one, other, **how)
    return found
