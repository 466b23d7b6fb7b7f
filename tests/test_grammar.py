"""Durations, moments, names of weights, and rules and schedules as text."""

import dataclasses
import hashlib
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytrain import grammar, rules, schedules
from anytrain.errors import UserError, nearest
from anytrain.grammar import (
    Quantity,
    Steps,
    WeightsSpan,
    build,
    describe,
    duration,
    moment,
    parse_spec,
    short_count,
    weights_name,
    weights_span,
)
from anytrain.rules import AnytimeEma, Polynomial, PowerEma, Uniform
from anytrain.schedules import Constant, Cooldown, InverseSqrt, Power
from cases import HORIZON_BOUND, RULES, SCHEDULES

# --- durations and moments -------------------------------------------------------------------

READ = {
    "2000-steps": (2000, "steps"),
    "2000 steps": (2000, "steps"),
    "2000steps": (2000, "steps"),
    "1-step": (1, "steps"),
    " 1.5k-steps ": (1500, "steps"),
    "20M-tokens": (20_000_000, "tokens"),
    "20M tokens": (20_000_000, "tokens"),
    "3.2768B-tokens": (3_276_800_000, "tokens"),
    "0.3B-tokens": (300_000_000, "tokens"),
    "1.1T-tokens": (1_100_000_000_000, "tokens"),
    "2e9-tokens": (2_000_000_000, "tokens"),
    "1-token": (1, "tokens"),
    "10min": (600, "seconds"),
    "10 min": (600, "seconds"),
    "90s": (90, "seconds"),
    "1.5h": (5400, "seconds"),
    "2d": (172_800, "seconds"),
    "30-seconds": None,
    "2000": None,
    "5k": None,
    "1e3": None,
    "20M-toks": None,
    "10m": None,
    "3k-min": None,
    "-5-steps": None,
    "1,000-steps": None,
    "steps": None,
    "": None,
    "nan-steps": None,
    "inf-steps": None,
    "0.5-tokens": None,
    "20MB-tokens": None,
    "2000-steps-tokens": None,
}


@pytest.mark.parametrize("text", READ)
def test_duration(text: str) -> None:
    expected = READ[text]
    if expected is None:
        with pytest.raises(UserError, match=r"2000-steps, 20M-tokens or 10min|whole number"):
            duration(text, what="--for")
        return
    found = duration(text)
    assert (found.amount, found.unit) == expected
    assert moment(text) == found


def test_a_bare_number_is_a_step_where_a_step_is_meant() -> None:
    assert moment("12500") == moment(12500) == moment(" 12500 ") == Quantity(12500, "steps")
    with pytest.raises(UserError, match=r"--for '12500' has no unit; valid are for example 2000"):
        duration("12500", what="--for")
    with pytest.raises(UserError, match="has no unit"):
        moment("12.5")


@given(st.integers(0, 10**16), st.sampled_from(["steps", "tokens"]))
def test_a_whole_quantity_is_read_back(amount: int, unit: Literal["steps", "tokens"]) -> None:
    quantity = Quantity(float(amount), unit)
    assert duration(str(quantity)) == quantity


@given(st.floats(1e-6, 1e15))
def test_any_number_of_steps_is_read_back(amount: float) -> None:
    assert duration(str(Quantity(amount, "steps"))).amount == pytest.approx(amount, rel=1e-9)


@given(st.integers(0, 10**9))
def test_a_time_is_read_back(seconds: int) -> None:
    quantity = Quantity(float(seconds), "seconds")
    assert duration(str(quantity)) == quantity


def test_short_counts() -> None:
    assert [short_count(n) for n in (20_000_000, 3_276_800_000, 999, 1000, 1001, 1.5, 0)] == [
        *("20M", "3.2768B", "999", "1k", "1001", "1.5", "0")
    ]


def test_tokens_become_steps_through_the_reference_batch() -> None:
    assert duration("20M-tokens").steps(4096) == 20_000_000 / 4096
    assert duration("7-steps").steps(None) == 7
    with pytest.raises(UserError, match="needs a batch size"):
        duration("20M-tokens").steps(None)
    with pytest.raises(UserError, match="10min is a time; here steps or tokens"):
        duration("10min").steps(4096)


# --- names of weights ------------------------------------------------------------------------

NAMES = {
    "runs/a": ("runs/a", "latest", "best"),
    "runs/a@latest": ("runs/a", "latest", "best"),
    "runs/a@latest:best": ("runs/a", "latest", "best"),
    "runs/a:ema6.25": ("runs/a", "latest", "ema6.25"),
    "runs/a@12500:raw": ("runs/a", Quantity(12500, "steps"), "raw"),
    "runs/a@20B-tokens:ema25": ("runs/a", Quantity(2e10, "tokens"), "ema25"),
    "/x/y.z@3-steps": ("/x/y.z", Quantity(3, "steps"), "best"),
    "a": ("a", "latest", "best"),
    "me@host/run@5": ("me@host/run", Quantity(5, "steps"), "best"),
    "a:b/c:raw": ("a:b/c", "latest", "raw"),
}


@pytest.mark.parametrize("text", NAMES)
def test_weights_name(text: str) -> None:
    name = weights_name(text)
    assert (name.run, name.when, name.weights) == NAMES[text]
    assert weights_name(str(name)) == name


@pytest.mark.parametrize("text", ["", "runs/a@", "runs/a:", "runs/a@:raw", "runs/a@5:"])
def test_what_names_no_weights(text: str) -> None:
    with pytest.raises(UserError, match=r"valid is RUN\[@WHEN\]\[:WEIGHTS\]"):
        weights_name(text)


def test_a_moment_that_is_none() -> None:
    with pytest.raises(UserError, match="the moment in 'runs/a@soon' 'soon' is not a duration"):
        weights_name("runs/a@soon")


def test_a_path_that_exists_is_taken_whole(tmp_path: Path) -> None:
    odd = tmp_path / "a@5:raw"
    odd.mkdir()
    assert weights_name(str(odd)).run == str(odd)


def steps(amount: float) -> Quantity:
    return Quantity(amount, "steps")


def tokens(amount: float) -> Quantity:
    return Quantity(amount, "tokens")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("runs/a@1000..2000", WeightsSpan("runs/a", steps(1000), steps(2000))),
        ("runs/a@10B..20B-tokens", WeightsSpan("runs/a", tokens(1e10), tokens(2e10))),
        ("runs/a@1.5k..2k-steps:ema25", WeightsSpan("runs/a", steps(1500), steps(2000), "ema25")),
        ("a@900M-tokens..1B-tokens:raw", WeightsSpan("a", tokens(9e8), tokens(1e9), "raw")),
        ("../a b@0..5", WeightsSpan("../a b", steps(0), steps(5))),
        ("a@1min..2min", WeightsSpan("a", Quantity(60, "seconds"), Quantity(120, "seconds"))),
    ],
)
def test_weights_span(text: str, span: WeightsSpan) -> None:
    assert weights_span(text) == span


@pytest.mark.parametrize("text", ["runs/a", "runs/a@5", "a@5:raw", "../a", "a..b@5", "a@5/..", ""])
def test_what_is_no_span(text: str) -> None:
    assert weights_span(text) is None


def test_a_path_is_no_span(tmp_path: Path) -> None:
    path = tmp_path / "a@1..2"
    assert weights_span(str(path)) is not None
    path.mkdir()
    assert weights_span(str(path)) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a@2000..1000", "from 2k-steps to 1k-steps; an earlier and a later moment are valid"),
        ("a@5..5", "an earlier and a later moment"),
        ("a@5-steps..1B-tokens", "from 5-steps to 1B-tokens"),
        ("a@x..5", "the moment in 'a@x..5' 'x' is not a duration"),
        ("a@5..x", "'x' is not a duration"),
        ("a@5..1B", "'1B' has no unit"),
        ("a@1...2", "'.2' has no unit"),
    ],
)
def test_spans_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        weights_span(text)


# --- specs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_rule_is_read_back(name: str) -> None:
    text = rules.spec(RULES[name])
    assert rules.rule(text) == RULES[name]
    assert rules.rule(parse_spec(text)) == RULES[name]


@pytest.mark.parametrize("name", [*SCHEDULES, *HORIZON_BOUND])
def test_schedule_is_read_back(name: str) -> None:
    schedule = {**SCHEDULES, **HORIZON_BOUND}[name]
    text = schedules.spec(schedule)
    assert schedules.schedule(text) == schedule
    assert schedules.schedule(parse_spec(text)) == schedule
    assert schedules.spec(schedules.schedule(text)) == text


positive = st.floats(1e-12, 1e12)
steps = st.floats(0, 1e12)
fraction = st.floats(0, 1)
trunks = st.one_of(
    st.builds(Constant, positive, steps, fraction),
    st.builds(InverseSqrt, positive, steps, positive, fraction),
    st.builds(Power, positive, steps, fraction, positive, fraction),
)


@given(trunks)
def test_any_schedule_is_read_back(schedule: schedules.Schedule) -> None:
    assert schedules.schedule(schedules.spec(schedule)) == schedule


@given(trunks, st.floats(0, 1e9), st.floats(1, 1e9), st.sampled_from(["sqrt", "cosine"]), fraction)
def test_any_cooldown_is_read_back(
    trunk: schedules.Schedule, start: float, length: float, shape: schedules.Shape, final: float
) -> None:
    made = Cooldown(horizon=start + length, trunk=trunk, start=start, shape=shape, final=final)
    assert schedules.schedule(schedules.spec(made)) == made


@given(
    st.one_of(
        st.builds(AnytimeEma, positive),
        st.builds(Polynomial, steps, st.none() | steps),
        st.builds(PowerEma, st.floats(1e-6, 0.28)),
        st.builds(Uniform, steps),
    )
)
def test_any_rule_is_read_back(rule: rules.Rule) -> None:
    assert rules.rule(rules.spec(rule)) == rule


def test_durations_inside_specs() -> None:
    text = "inverse_sqrt:peak=3e-3,warmup=2048-tokens,offset=1k-steps"
    assert schedules.schedule(text, tokens_per_step=64) == InverseSqrt(3e-3, 32, 1000)
    with pytest.raises(UserError, match="needs a batch size"):
        schedules.schedule(text)
    with pytest.raises(UserError, match=r"warmup '5000' has no unit"):
        schedules.schedule("inverse_sqrt:peak=3e-3,warmup=5000,offset=1-steps")
    assert rules.rule("uniform:start=640-tokens", 64) == Uniform(10)


def test_nested_specs() -> None:
    text = (
        "cooldown:trunk=(power:peak=1e-2,warmup=5-steps,exponent=0.5,offset=9-steps),"
        "start=640-tokens,horizon=20-steps,shape=linear"
    )
    assert parse_spec(text)["trunk"]["kind"] == "power"
    made = schedules.schedule(text, 64)
    trunk = Power(1e-2, 5, 0.5, 9)
    assert made == Cooldown(horizon=20, trunk=trunk, start=10, shape="linear")
    assert parse_spec("a:x=(b:y=(c:z=1,w=2)),v=3") == {
        "kind": "a",
        "x": {"kind": "b", "y": {"kind": "c", "z": "1", "w": "2"}},
        "v": "3",
    }


REFUSED = {
    "anytime_em:f=25": r"unknown kind 'anytime_em' \(did you mean 'anytime_ema'\?\)",
    "xyz": r"unknown kind 'xyz' \(known: anytime_ema, ema, polynomial, power_ema, uniform\)",
    "": "unknown kind ''",
    "anytime_ema": "anytime_ema needs f",
    "anytime_ema:g=25": r"anytime_ema has no parameter 'g'",
    "anytime_ema:f": "'f' is not key=value",
    "anytime_ema:f=": "'f=' is not key=value",
    "anytime_ema:f=x": "anytime_ema:f = 'x' is not a number",
    "anytime_ema:f=nan": "is not finite",
    "anytime_ema:f=inf": "is not finite",
    "anytime_ema:f=0": r"f = 0.0; above 0 is valid \(the raw weights are called raw\)",
    "anytime_ema:f=-1": "above 0 is valid",
    "anytime_ema:f=(1": "parentheses do not match",
    "anytime_ema:f=1)": "parentheses do not match",
    "uniform:start=5": "has no unit",
    "uniform:start=5min": "is a time",
    "my.Rule:p=1": "for a class of your own add --import my",
}


@pytest.mark.parametrize("text", REFUSED)
def test_spec_that_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=REFUSED[text]):
        rules.rule(text)


def test_shape_that_is_refused() -> None:
    with pytest.raises(UserError, match="valid are linear, sqrt, cosine, square"):
        schedules.schedule("wsd:peak=1,horizon=10-steps,shape=cubic")


# --- classes of the user's -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Many:
    """One field of each kind that a spec can say."""

    plain: float
    steps: Steps = 1.0
    whole: int = 3
    word: str = "x"
    shape: Literal["a", "b"] = "a"
    perhaps: float | None = None
    later: Steps | None = None
    other: Annotated[float, "steps"] | None = None
    optional: Optional[float] = None  # noqa: UP045  users write it so
    trunk: Constant | None = None

    def __call__(self, t: float, /) -> float:
        return self.plain


def test_every_kind_of_field() -> None:
    kinds = {"many": Many, "constant": Constant}
    made = Many(0.5, 2.5, 7, "hello", "b", 1.25, 10.0, 11.0, 0.125, Constant(3e-3, 5))
    text = describe(made, kinds)
    assert build(text, kinds) == made
    assert build("many:plain=1", kinds) == Many(1.0)
    assert build("many:plain=1,later=640-tokens", kinds, 64).later == 10.0
    with pytest.raises(UserError, match=r"whole = '2\.5' is not a number"):
        build("many:plain=1,whole=2.5", kinds)
    with pytest.raises(UserError, match="valid are a, b"):
        build("many:plain=1,shape=c", kinds)


def test_what_is_no_dataclass_has_no_text() -> None:
    with pytest.raises(UserError, match="is not a dataclass"):
        rules.spec(lambda t, dt=1.0: 0.5)


def test_import_returns_the_hash_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass R:\n    p: float\n"
    (tmp_path / "grammar_of_mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grammar, "_USER_MODULES", {})
    try:
        digest = grammar.import_user_module("grammar_of_mine")
        assert digest == hashlib.sha256(source.encode()).hexdigest()
        made = rules.rule("grammar_of_mine.R:p=2")
        assert (type(made).__name__, made.p) == ("R", 2.0)  # type: ignore[attr-defined]
        assert rules.rule(rules.spec(made)) == made
        assert str(tmp_path) not in sys.path
    finally:
        sys.modules.pop("grammar_of_mine", None)


def test_nearest() -> None:
    assert nearest("widht", ["width", "depth"]) == " (did you mean 'width'?)"
    assert nearest("zzz", ["b", "a"]) == " (known: a, b)"
