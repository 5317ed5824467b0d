"""The options of policies: checked where they are given, described where they are declared, documented where they are read."""

from __future__ import annotations

import inspect
import math
import re
from typing import Annotated, Any, Literal, get_type_hints

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import foreseer
from foreseer import OptionError
from foreseer.options import Range, at_least, at_least_float, checked, cites, describe_option, fraction

OWN = [listing for listing in foreseer.list_plugins() if listing.distribution == "foreseer"]
laws = settings(deadline=None, max_examples=60)


def declared() -> list[tuple[str, str, inspect.Parameter, Any]]:
    """Policy, option, parameter and annotation of every option of every built-in policy."""
    rows = []
    for listing in OWN:
        factory = listing.load()
        hints = get_type_hints(inspect.unwrap(factory), include_extras=True)
        rows += [(listing.name, p.name, p, hints[p.name]) for p in inspect.signature(factory).parameters.values()]
    return rows


OPTIONS = declared()
IDS = [f"{policy}.{option}" for policy, option, _, _ in OPTIONS]


def range_of(annotation: Any) -> Range | None:
    return next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Range)), None)


@laws
@given(
    value=st.one_of(st.integers(-3, 3), st.floats(-3, 3)),
    bounds=st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(sorted),
    kind=st.sampled_from([int, float]),
    opened=st.tuples(st.booleans(), st.booleans()),
)
def test_a_range_allows_its_kind_within_its_bounds(value: float, bounds: list[int], kind: type, opened: tuple[bool, bool]) -> None:
    """Bounds belong to the range unless they are open; a whole number is a number, and not the reverse."""
    low, high = bounds
    inside = (low < value or (value == low and not opened[0])) and (value < high or (value == high and not opened[1]))
    assert Range(kind, low, high, *opened).allows(value) == (inside and (kind is float or isinstance(value, int)))


@pytest.mark.parametrize("value", [True, False, "1", None, math.nan, 1j, [1]], ids=repr)
def test_a_range_allows_numbers_only(value: object) -> None:
    """A bool is no number here, NaN is in no range, and text stays text."""
    assert not Range(int).allows(value)
    assert not Range(float).allows(value)


@pytest.mark.parametrize(
    ("given_range", "words"),
    [
        (at_least(1), "a whole number >= 1"),
        (at_least_float(0.0), "a number >= 0"),
        (Range(float, 0.0, open_low=True), "a number > 0"),
        (fraction, "a number in [0, 1]"),
        (Range(float, 0.0, 1.0, open_low=True), "a number in (0, 1]"),
        (Range(int, 2, 8, open_high=True), "a whole number in [2, 8)"),
    ],
    ids=str,
)
def test_a_range_in_words(given_range: Range, words: str) -> None:
    assert str(given_range) == words
    assert describe_option(Annotated[float, given_range]) == words


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int | None, at_least(1)], "a whole number >= 1 or None"),
        (Literal["row", "batch"], "one of 'row', 'batch'"),
        (int, ""),
        (Annotated[int, "a note"], ""),
    ],
    ids=str,
)
def test_an_annotation_in_words(annotation: Any, words: str) -> None:
    """None and choices are said too; an annotation that declares nothing says nothing."""
    assert describe_option(annotation) == words


@checked
def gate(
    *,
    steps: Annotated[int, at_least(1)] = 3,
    threshold: Annotated[float, fraction] = 0.5,
    limit: Annotated[int | None, at_least(1)] = None,
    decide: Literal["row", "batch"] = "row",
    anything: object = None,
) -> dict[str, object]:
    """Return what was given."""
    return {"steps": steps, "threshold": threshold, "limit": limit, "decide": decide, "anything": anything}


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("steps", 0, "a whole number >= 1"),
        ("steps", 2.0, "a whole number >= 1"),
        ("steps", True, "a whole number >= 1"),
        ("steps", None, "a whole number >= 1"),
        ("threshold", 1.5, "a number in [0, 1]"),
        ("threshold", math.nan, "a number in [0, 1]"),
        ("threshold", "0.5", "a number in [0, 1]"),
        ("limit", 0, "a whole number >= 1 or None"),
        ("decide", "rows", "one of 'row', 'batch'"),
    ],
)
def test_a_bad_value_is_named_with_its_factory_and_what_to_write(option: str, value: object, instead: str) -> None:
    """The message has the factory, the option, the value as written, and what to write instead."""
    with pytest.raises(OptionError, match="^" + re.escape(f"gate: {option}={value!r} is out of range; write {instead}") + "$"):
        gate(**{option: value})


@pytest.mark.parametrize("good", [{}, {"steps": 1}, {"threshold": 1}, {"limit": None}, {"limit": 4}, {"decide": "batch"}, {"anything": "at all"}])
def test_a_good_value_arrives_as_it_is(good: dict[str, Any]) -> None:
    """Whole numbers are numbers, None goes where the annotation says so, and what nobody declared is not looked at."""
    assert gate(**good) == {"steps": 3, "threshold": 0.5, "limit": None, "decide": "row", "anything": None} | good


def test_checking_and_citing_keep_the_factory_s_face() -> None:
    """Name, docstring and signature are the author's own: tables and `foreseer show` read them."""
    assert gate.__name__ == "gate"
    assert inspect.getdoc(gate) == "Return what was given."
    assert list(inspect.signature(gate).parameters) == ["steps", "threshold", "limit", "decide", "anything"]
    assert foreseer.cite(cites("@article{x}")(lambda: None)) == "@article{x}"
    assert foreseer.cite(gate) == ""


def test_an_option_error_is_a_value_error() -> None:
    """Code that knows nothing of foreseer can catch it."""
    assert issubclass(OptionError, ValueError)
    assert issubclass(OptionError, foreseer.ForeseerError)


@pytest.mark.parametrize(
    ("policy", "wrong", "meant"),
    [("speca", "treshold", "threshold"), ("taylorseer", "intervall", "interval"), ("cg_taylor", "warmup", "warmup_steps")],
)
def test_an_unknown_option_suggests_the_nearest(policy: str, wrong: str, meant: str) -> None:
    """A misspelt option is refused at once, with the name that was meant and all that there are."""
    with pytest.raises(OptionError, match=f"policy '{policy}' has no option '{wrong}'; did you mean '{meant}'\\?.*its options are .*{meant}"):
        foreseer.policy(policy, **{wrong: 1})


def test_an_unknown_option_that_resembles_none() -> None:
    """Without a near name only the list is given; a policy without options says so."""
    with pytest.raises(OptionError, match="'speca' has no option 'zzz'; its options are threshold,"):
        foreseer.policy("speca", zzz=1)
    with pytest.raises(OptionError, match="'none' has no option 'interval'; its options are none"):
        foreseer.policy("none", interval=1)


def test_later_options_are_added_to_those_given() -> None:
    """A spec can be refined, and is checked again."""
    spec = foreseer.policy(foreseer.policy("taylorseer", interval=5), max_order=2)
    assert spec.options == {"interval": 5, "max_order": 2}
    with pytest.raises(OptionError, match="interval=0"):
        foreseer.policy(spec, interval=0)


def test_the_built_in_policies_have_options() -> None:
    """What the tests below go through is not empty."""
    assert len(OPTIONS) > 20
    assert {policy for policy, _, _, _ in OPTIONS} == {listing.name for listing in OWN} - {"none"}


@pytest.mark.parametrize(("policy", "option", "parameter", "annotation"), OPTIONS, ids=IDS)
def test_every_option_is_documented_and_has_a_default(policy: str, option: str, parameter: inspect.Parameter, annotation: Any) -> None:
    """A reader of the docstring finds it under Args; a user may leave it out; and it cannot be given by position."""
    factory = next(listing for listing in OWN if listing.name == policy).load()
    arguments = (inspect.getdoc(factory) or "").partition("Args:")[2]
    assert re.search(rf"^    {option}: \S", arguments, re.MULTILINE)
    assert parameter.default is not inspect.Parameter.empty
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("listing", OWN, ids=[listing.name for listing in OWN])
def test_no_option_is_documented_that_does_not_exist(listing: Any) -> None:
    """The other direction: Args names nothing that was renamed or removed."""
    arguments = (inspect.getdoc(listing.load()) or "").partition("Args:")[2]
    assert set(re.findall(r"^    (\w+): ", arguments, re.MULTILINE)) == set(inspect.signature(listing.load()).parameters)


def out_of_range(bounds: Range) -> list[object]:
    """Values next to the bounds, and values of another kind."""
    wrong: list[object] = [bounds.low if bounds.open_low else bounds.low - 1, True, "1", math.nan]
    if bounds.high < math.inf:
        wrong.append(bounds.high if bounds.open_high else bounds.high + 1)
    if bounds.kind is int:
        wrong.append(bounds.low + 1.5)
    return wrong


BAD = [
    pytest.param(policy, option, value, id=f"{policy}.{option}={value!r}")
    for policy, option, _, annotation in OPTIONS
    if (bounds := range_of(annotation))
    for value in out_of_range(bounds)
]
CHOICES = [
    pytest.param(policy, option, id=f"{policy}.{option}") for policy, option, _, annotation in OPTIONS if describe_option(annotation).startswith("one of")
]


@pytest.mark.parametrize(("policy", "option", "value"), BAD)
def test_a_built_in_policy_refuses_what_is_out_of_range(policy: str, option: str, value: object) -> None:
    """Naming the policy is enough to find out: nothing waits for step 17."""
    with pytest.raises(OptionError, match=re.escape(f"{policy}: {option}={value!r} is out of range; write a ")):
        foreseer.policy(policy, **{option: value})


@pytest.mark.parametrize(("policy", "option"), CHOICES)
def test_a_built_in_policy_refuses_an_unknown_choice(policy: str, option: str) -> None:
    with pytest.raises(OptionError, match=f"{policy}: {option}='neither' is out of range; write one of '"):
        foreseer.policy(policy, **{option: "neither"})


@pytest.mark.parametrize(("policy", "option", "parameter", "annotation"), OPTIONS, ids=IDS)
def test_bounds_and_defaults_are_allowed(policy: str, option: str, parameter: inspect.Parameter, annotation: Any) -> None:
    """What the description allows is accepted: the default, and every closed bound."""
    values = [parameter.default]
    if bounds := range_of(annotation):
        values += [bound for bound, opened in ((bounds.low, bounds.open_low), (bounds.high, bounds.open_high)) if math.isfinite(bound) and not opened]
    for value in values:
        assert foreseer.policy(policy, **{option: value}).options == {option: value}


@checked
def spelt(
    *,
    inner: Annotated[int | None, at_least(1)] = None,
    outer: Annotated[int, at_least(1)] | None = None,
    mixed: Annotated[float, fraction] | Literal["auto"] = "auto",
    number: float = 0.5,
    whole: int = 3,
    switch: bool = True,
    text: str = "a",
    other: dict[str, int] | None = None,
) -> object:
    """Every way in which an option can be declared."""
    return object()


@pytest.mark.parametrize(
    ("option", "right", "wrong", "words"),
    [
        ("inner", [None, 1, 7], [0, 1.5, "x", True], "a whole number >= 1 or None"),
        ("outer", [None, 1, 7], [0, 1.5, "x", True], "a whole number >= 1 or None"),
        ("mixed", ["auto", 0, 0.5, 1.0], [1.5, "manual", None], "a number in [0, 1] or one of 'auto'"),
        ("number", [0, -2.5], ["abc", None, True], "a number"),
        ("whole", [0, -2, 10**400], [0.5, "3", False], "a whole number"),
        ("switch", [True, False], ["maybe", 1, None], "True or False"),
        ("text", ["", "b"], [3, None], "text"),
    ],
)
def test_an_option_is_held_to_its_type_however_it_is_spelt(option: str, right: list[Any], wrong: list[Any], words: str) -> None:
    """Range inside or outside of the union, choices, bare types: what is declared is what is checked, and the message says what to write."""
    for value in right:
        spelt(**{option: value})
    for value in wrong:
        with pytest.raises(OptionError, match=re.escape(f"spelt: {option}={value!r} is out of range; write {words}")):
            spelt(**{option: value})


def test_types_that_say_nothing_are_left_to_the_factory() -> None:
    spelt(other={"a": 1})
    spelt(other=[1])
    assert describe_option(get_type_hints(inspect.unwrap(spelt), include_extras=True)["number"]) == "", "a bare type is shown as it is written"


@pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), np.float64(0.5)])
def test_numbers_of_numpy_are_numbers(value: Any) -> None:
    spelt(number=value)
    if isinstance(value, np.integer):
        spelt(whole=value, inner=value)
