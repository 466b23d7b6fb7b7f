"""A study with known differences: what is found is what was put in; what is missing is said."""

from dataclasses import replace

import pytest

from anytrain.compare.findings import Findings, findings, headline
from anytrain.compare.readings import difference, reading, told
from anytrain.compare.reference import reference
from anytrain.compare.results import Results
from anytrain.compare.sensitivity import sensitivity
from anytrain.compare.winners import winners
from studies import BEST, GAPS, HORIZONS, KINDS, begun, study


@pytest.fixture(scope="module")
def results() -> Results:
    return study()


@pytest.fixture(scope="module")
def found(results: Results) -> Findings:
    return findings(results)


def test_differences_are_what_was_put_in(found: Findings) -> None:
    for (arm, variant), by_horizon in found.differences.items():
        assert tuple(by_horizon) == HORIZONS
        for put, d in zip(GAPS[arm], by_horizon.values(), strict=True):
            own = -0.002 if (variant, d.horizon) == ("each", 1.0) and KINDS[arm] == "free" else 0.0
            assert d.seeds.mean == pytest.approx(put + own, abs=4e-3)
            assert d.seeds.seeds == 5
            assert d.sequences is not None
            assert d.sequences.mean == pytest.approx(d.seeds.mean, abs=1e-5)


def test_pairing_cancels_what_runs_of_a_seed_share(results: Results) -> None:
    d = difference(results, "constant", 4.0)
    assert d is not None
    half = d.seeds.half
    assert half is not None
    assert half < 4e-3  # unpaired: seeds differ by 4e-3, √(2/5)·2.8 times that


def test_the_anytime_arm_is_tunings_and_not_the_reports(results: Results, found: Findings) -> None:
    assert found.anytime == "inverse_sqrt"
    worse = tuple(
        replace(o, loss=o.loss + 1.0) if (o.arm, o.phase) == ("inverse_sqrt", "report") else o
        for o in results.observations
    )
    assert findings(replace(results, observations=worse)).anytime == "inverse_sqrt"


def test_transient_and_what_is_left_outside(found: Findings) -> None:
    assert [t.inside for t in found.transient] == [True, False, False, False]
    assert [t.fair for t in found.transient] == [False, True, True, True]
    assert found.settled is not None
    assert found.settled.mean == pytest.approx(-0.004, abs=2e-3)


def test_regret_is_of_the_worst_horizon(found: Findings) -> None:
    by_arm = {(r.arm, r.variant): r for r in found.regrets}
    cosine = by_arm["cosine", "each"]
    assert cosine.horizon == 1.0
    assert cosine.best == "constant"
    assert cosine.nats == pytest.approx(0.032, abs=3e-3)
    assert cosine.ratio == pytest.approx(1 + cosine.nats / 3.94, abs=1e-4)
    assert [r.nats for r in found.regrets] == sorted(r.nats for r in found.regrets)


def test_verdicts(found: Findings) -> None:
    assert [v.word for v in found.verdicts] == ["Yes", "Yes", "Not settled"]
    assert "at 8×" in found.verdicts[0].numbers
    assert "3 of 4" in found.verdicts[2].numbers


def test_every_free_arm_is_asked_the_same(found: Findings) -> None:
    """constant is 4e-3 behind cosine at 8×: close everywhere, and not ahead everywhere."""
    assert list(found.asked) == ["constant", "inverse_sqrt"]
    assert found.asked["inverse_sqrt"] == found.verdicts
    close, ahead, everywhere = found.asked["constant"]
    assert (close.word, ahead.word, everywhere.word) == ("Yes", "Yes", "No")
    assert "+0.00" in close.numbers


def test_a_verdict_is_as_sure_as_its_interval(results: Results) -> None:
    """Losses moved by more than the noise settle it, one seed less unsettles everything."""

    def moved(by: float) -> list[str]:
        shifted = tuple(
            replace(o, loss=o.loss + by) if o.arm == "inverse_sqrt" else o
            for o in results.observations
        )
        return [v.word for v in findings(replace(results, observations=shifted)).verdicts]

    assert moved(-0.2) == ["Yes"] * 3
    assert moved(0.2) == ["No"] * 3
    last = results.report_seeds[-1]
    fewer = tuple(o for o in results.observations if (o.arm, o.seed) != ("inverse_sqrt", last))
    found = findings(replace(results, observations=fewer))
    assert [v.word for v in found.verdicts] == ["Not settled"] * 3


def test_the_sentence(found: Findings) -> None:
    text = headline(found)
    assert text.startswith("One inverse_sqrt run, read from ema25, is on average 0.0097 nats/token")
    assert "32.8M tokens instead of 61.4M" in text
    assert "without 1×, inside the transient" in text


def test_no_side_is_claimed_within_the_noise(results: Results) -> None:
    flat = replace(results, horizons=(4.0, 8.0))
    assert "on average level with" in headline(findings(flat))


def test_nothing_reported_is_said() -> None:
    found = findings(begun())
    assert "40 of 120 jobs" in headline(found)
    assert [v.word for v in found.verdicts] == ["Not settled"] * 3
    assert found.regrets == found.transient == ()


def test_one_seed_has_differences_and_no_interval(results: Results) -> None:
    one = replace(
        results,
        report_seeds=(11,),
        observations=tuple(o for o in results.observations if o.seed in (0, 11)),
    )
    found = findings(one)
    assert all(d.seeds.low is None for d in found.one.values())
    assert "one seed, no interval" in found.verdicts[1].numbers
    assert "0.00" in headline(found)


def test_part_of_the_horizons_answers_nothing(results: Results) -> None:
    part = replace(
        results,
        observations=tuple(
            o for o in results.observations if (o.arm, o.horizon) != ("cosine", 8.0)
        ),
    )
    found = findings(part)
    assert len(found.one) == 3
    assert [v.answer for v in found.verdicts] == [None] * 3
    assert "cosine" not in {r.arm for r in found.regrets}


def test_a_choice_per_horizon_that_is_the_same_is_not_told(results: Results) -> None:
    assert told(results, "constant") == ("one", "each")
    same = tuple(
        replace(c, weights="ema25") if KINDS[c.arm] == "free" else c for c in results.choices
    )
    assert told(replace(results, choices=same), "constant") == ("one",)
    assert told(results, "cosine") == ("each",)


def test_rates(results: Results) -> None:
    for arm in KINDS:
        s = sensitivity(results, arm)
        assert s is not None
        assert s.key == "schedule.peak"
        assert set(s.best.values()) == {BEST[arm]}
        assert all(min(row.values()) == 0 for row in s.above.values())
    off = sensitivity(results, "constant")
    assert off is not None
    assert off.above[8.0][4e-3] == pytest.approx(0.012, abs=5e-3)


def test_averages(results: Results) -> None:
    w = winners(results, "inverse_sqrt")
    assert w is not None
    assert w.best == {1.0: "ema6", 2.0: "ema25", 4.0: "ema25", 8.0: "ema25"}
    assert w.gain() == pytest.approx(0.08)
    assert winners(results, "cosine") is None


def test_reading_of_what_is_not_there(results: Results) -> None:
    assert reading(results, "constant", 16.0) is None


def test_reference_is_within_what_the_paper_says() -> None:
    rows = reference()
    assert len(rows) == 11
    assert max(abs(r.minus_baseline(a)) for r in rows for a in r.losses) <= 8.25e-3
    at = next(r for r in rows if (r.model, r.horizon) == ("150M", 8))
    assert at.minus_baseline("inverse_sqrt") == pytest.approx(-0.00667)


def test_a_seed_that_one_arm_lacks_moves_no_comparison(results: Results, found: Findings) -> None:
    """Seed 15 is a nat worse for all, and one arm has not run it yet."""
    uneven = tuple(
        replace(o, loss=o.loss + (o.seed == 15))
        for o in results.observations
        if (o.arm, o.seed) != ("wsd", 15)
    )
    part = findings(replace(results, observations=uneven))
    for t, whole in zip(part.transient, found.transient, strict=True):
        assert t.gap == pytest.approx(whole.gap, abs=2e-3)
    assert part.regrets[-1].nats == pytest.approx(found.regrets[-1].nats, abs=3e-3)
    assert "at worst −0.00" in part.verdicts[2].numbers
