"""A chart is drawn twice from one description, the same for the page and for paper."""

import json
from dataclasses import replace
from itertools import combinations, product

import pytest

from anytrain.compare.findings import findings
from anytrain.report import chart_matplotlib, chart_plotly
from anytrain.report.cast import cast
from anytrain.report.charts import COLOURS, DARK, Axis, Bar, BarChart, Chart, Drawn, Mark, Series
from anytrain.report.point_names import PAPER, point_names
from anytrain.report.study_sections import own_sections
from anytrain.report.tuning_charts import rate_charts
from studies import begun, study

pytest.importorskip("matplotlib")

LINE = Series("a & b", (1.0, 2.0, 4.0), (3.0, 2.5, 2.25), role="best", shape="circle")
CHART = Chart(
    "small",
    "A line goes down",
    Axis("tokens", log=True, ticks=((1.0, "1\n1×"), (4.0, "4\n4×"))),
    Axis("loss, nats/token"),
    (
        LINE,
        Series("band", (1.0, 4.0), (3.0, 2.0), (2.9, None), (3.1, None), band=True),
        Series("bars", (1.0, 4.0), (3.0, 2.0), (2.9, None), (3.1, None), "ink", line=False),
        Series("at its end", (2.0,), (2.0,), role="ramp1", line=False, shape="down", label="end"),
    ),
    (Mark(2.0, "x", "here"), Mark(2.4, "y", "level", "baseline")),
)
BARS = BarChart(
    "bars",
    "One is longer",
    Axis("tokens, M"),
    ("a", "b"),
    (Bar("one", (1.0, None), ("1M", "")), Bar("two", (2.0, 3.0), ("2M", "3M"), "best")),
)
WHISKERS = BarChart(
    "whiskers",
    "Zero lies in one of them",
    Axis("points", signed=True),
    ("a", "b"),
    (Bar("difference", (-1.0, 0.5), ("−1.0 ± 0.5", "+0.5"), intervals=((-1.5, -0.5), None)),),
)
EMPTY = Chart("empty", "Nothing yet", Axis("tokens"), Axis("loss"), ())


every = pytest.mark.parametrize(
    "chart", [CHART, BARS, WHISKERS, EMPTY], ids=["lines", "bars", "whiskers", "empty"]
)


def all_charts() -> list[Drawn]:
    return [chart for part in own_sections(findings(study())) for chart in part.charts]


def test_the_study_draws_all_that_was_asked() -> None:
    names = [chart.name for chart in all_charts()]
    assert len(names) == len(set(names)) == 15
    for name in ("loss", "figure1", "differences", "reference-150m", "cost", "spent", "regret"):
        assert name in names
    assert sum(name.startswith("rate-") for name in names) == 5
    assert sum(name.startswith("averages-") for name in names) == 2


@every
def test_files_are_pictures_and_always_the_same(chart: Drawn) -> None:
    assert chart_matplotlib.drawn(chart, "png").startswith(b"\x89PNG")
    pdf = chart_matplotlib.drawn(chart, "pdf")
    assert pdf.startswith(b"%PDF")
    assert pdf == chart_matplotlib.drawn(chart, "pdf")


@every
def test_page_figure_is_plain_data(chart: Drawn) -> None:
    text = json.dumps(chart_plotly.figure(chart), allow_nan=False)
    assert json.loads(text)["layout"]["showlegend"] is (chart is BARS)


def test_names_stand_at_the_lines() -> None:
    layout = chart_plotly.figure(CHART)["layout"]
    edge = [note["text"] for note in layout["annotations"] if note.get("name") == "label"]
    assert sorted(edge) == ["a &amp; b", "band", "bars", "level"]
    rest = [note["text"] for note in layout["annotations"] if "name" not in note]
    assert rest == ["at its end", "here"]


def test_an_interval_that_is_not_known_is_not_drawn() -> None:
    area, band, bars = chart_plotly.figure(CHART)["data"][1:4]
    assert area["x"] == [1.0, 1.0]
    assert band["text"][0].endswith("3.0000 (2.9000 to 3.1000)")
    assert band["text"][1].endswith("2.0000")
    assert bars["error_y"]["array"] == [pytest.approx(0.1), 0]


def test_rows_with_intervals_are_dots_and_lines_beside_zero() -> None:
    whisker, other, dots = (trace := chart_plotly.figure(WHISKERS))["data"]
    assert (whisker["x"], other["x"]) == ([-1.5, -0.5], [0.5, 0.5])
    assert (dots["x"], dots["mode"]) == ([-1.0, 0.5], "markers")
    low, high = trace["layout"]["xaxis"]["range"]
    assert low < -1.5 < 0.5 < high
    assert trace["layout"]["shapes"][0]["x0"] == 0
    texts = [(note["x"], note["text"]) for note in trace["layout"]["annotations"]]
    assert texts == [(0.0, "−1.0 ± 0.5"), (0.5, "+0.5")]  # none left of zero, on a line


def test_names_of_crowded_points_do_not_cover_each_other() -> None:
    """Eight in a tenth of the plot, one far off that makes it so."""
    places = [(1.0 + 0.05 * (i % 4), 40.0 + 0.2 * i) for i in range(8)] + [(3.0, 44.0)]
    dots = [
        Series(f"base-{i}", (x,), (y,), line=False, shape="circle", label="end")
        for i, (x, y) in enumerate(places)
    ]
    chart = Chart("crowd", "A crowd", Axis("loss"), Axis("score"), tuple(dots))
    (left, right), (low, high) = chart.x_range(), chart.y_range()
    middles = [
        (PAPER * (x - left) / (right - left) + across, 320 * (y - low) / (high - low) + up)
        for _, x, y, across, up, _ in point_names(chart, PAPER)
    ]
    assert len(middles) == len(places)
    for (x, y), (u, v) in combinations(middles, 2):
        assert abs(x - u) >= 7.2 * len("base-0") - 1e-9 or abs(y - v) >= 13 - 1e-9
    marks = [(PAPER * (x - left) / (right - left), 320 * (y - low) / (high - low))
             for x, y in places]  # fmt: skip
    for (x, y), (u, v) in product(middles, marks):
        assert abs(x - u) >= 3.6 * len("base-0") + 4.5 - 1e-9 or abs(y - v) >= 11 - 1e-9
    assert [found[3:5] for found in point_names(chart, PAPER)][-1] == (0.0, 12.0)  # all the room


def test_every_colour_has_its_dark_twin() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert set(COLOURS.values()) <= set(DARK)
    assert not set(DARK) & set(DARK.values())  # mapped once, never back


def test_every_colour_is_legible_on_its_page() -> None:
    """3:1 against the ground for lines (WCAG 1.4.11); the palest, of the ramp, have a name."""
    pale = {COLOURS["ramp1"], COLOURS["ramp2"], COLOURS["average"]}
    for light in set(COLOURS.values()) - pale:
        assert contrast(light, "#ffffff") >= 3.0, light
    for light in set(COLOURS.values()) - pale:
        assert contrast(DARK[light], "#14171a") >= 3.0, DARK[light]
    for one, other in combinations([COLOURS[f"ramp{i}"] for i in range(1, 7)], 2):
        assert luminance(one) > luminance(other)
        assert luminance(DARK[one]) < luminance(DARK[other])


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_arms_keep_their_colours_whatever_is_missing() -> None:
    whole, part = findings(study()), findings(begun())
    assert cast(whole.results, whole.anytime) == cast(part.results, part.anytime)


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="role 'blue'"):
        replace(LINE, role="blue")
    with pytest.raises(ValueError, match="one value a point"):
        replace(LINE, y=(1.0,))
    with pytest.raises(ValueError, match="different lengths"):
        replace(LINE, hover=("one",))


def test_a_chart_of_another_setting_than_the_rate_says_which() -> None:
    def exponents(text: str) -> str:
        return text.replace("schedule.peak", "schedule.exponent")

    results = study()
    seen = tuple(replace(o, setting=exponents(o.setting)) for o in results.observations)
    chosen = tuple(replace(c, setting=exponents(c.setting)) for c in results.choices)
    rates = {c.name: c for c in rate_charts(findings(results))}
    others = {
        c.name: c
        for c in rate_charts(findings(replace(results, observations=seen, choices=chosen)))
    }
    assert rates.keys() == others.keys()
    assert any("rate" in chart.title for chart in rates.values())
    assert {n: c.title.replace("exponent", "rate") for n, c in others.items()} == {
        name: chart.title for name, chart in rates.items()
    }
    assert {chart.x.title for chart in rates.values()} == {"peak learning rate"}
    assert {chart.x.title for chart in others.values()} == {"exponent"}
