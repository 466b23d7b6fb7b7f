"""What a study file may say, and what it is told when it says something else."""

from pathlib import Path
from typing import Any

import pytest
from small_studies import UNIT, arms, write

from anytrain.errors import UserError
from anytrain.study.design import Design
from tiny import cli

GRID = {"schedule.peak": [0.01]}
CONSTANT = "constant:warmup=2-steps"

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({"horizon": [1.0]}, ["unknown key horizon", "'horizons'"]),
    "an unknown key of an arm": (
        {"arms": arms(wsd={"trunk": "constant", "cooldwn": 0.2})},
        ["arms.wsd", "cooldwn", "'cooldown'"],
    ),
    "an unknown key of the seeds": (
        {"seeds": {"tun": [0]}},
        ["seeds.tun", "'tune'"],
    ),
    "schedule and trunk": (
        {"arms": arms(wsd={"trunk": "constant", "schedule": CONSTANT})},
        ["arms.wsd", "either schedule or trunk, and not both"],
    ),
    "neither of them": ({"arms": arms(wsd={})}, ["arms.wsd", "either schedule or trunk"]),
    "a trunk with a horizon": (
        {"arms": arms(wsd={"trunk": "cosine"})},
        ["arms.wsd", "'cosine' has a horizon", "without one is valid: constant"],
    ),
    "a trunk that is a branch": (
        {"arms": arms(again={"trunk": "wsd"})},
        ["arms.again", "trunk = 'wsd'", "without one is valid: constant"],
    ),
    "an unknown trunk": (
        {"arms": arms(wsd={"trunk": "constnt"})},
        ["arms.wsd", "trunk = 'constnt'", "did you mean 'constant'?"],
    ),
    "a branch with a grid": (
        {"arms": arms(wsd={"trunk": "constant", "grid": GRID})},
        ["arms.wsd", "the trunk's grid"],
    ),
    "a cooldown that is no fraction": (
        {"arms": arms(wsd={"trunk": "constant", "cooldown": 1.0})},
        ["arms.wsd", "cooldown = 1", "above 0 and below 1"],
    ),
    "a final rate that is no fraction": (
        {"arms": arms(wsd={"trunk": "constant", "final": 1.5})},
        ["arms.wsd", "final = 1.5", "0 to 1"],
    ),
    "horizons that do not rise": ({"horizons": [2.0, 1.0]}, ["horizons = [2.0, 1.0]", "rising"]),
    "a horizon twice": ({"horizons": [1.0, 1.0]}, ["horizons = [1.0, 1.0]", "rising"]),
    "a horizon of zero": ({"horizons": [0.0, 1.0]}, ["horizons = [0.0, 1.0]", "above 0"]),
    "no horizons": ({"horizons": []}, ["horizons = []", "above 0"]),
    "horizons left out": ({"horizons": None}, ["horizons is missing"]),
    "a horizon below two steps": (
        {"horizons": [0.05, 1.0], "arms": arms(cosine=None, wsd=None)},
        ["horizon of 0.05 units", "64 tokens", "128 tokens, or more"],
    ),
    "seeds shared": (
        {"seeds": {"tune": [0, 1], "report": [1, 2]}},
        ["seeds.tune and seeds.report share [1]", "of their own"],
    ),
    "a seed twice": ({"seeds": {"tune": [3, 3]}}, ["seeds.tune = [3, 3]", "different seeds"]),
    "no seeds": ({"seeds": {"report": []}}, ["seeds.report = []", "one or more"]),
    "a negative seed": ({"seeds": {"tune": [-1]}}, ["seeds.tune = [-1]"]),
    "a seed that is text": ({"seeds": {"tune": ["a"]}}, ["seeds.tune.0 = 'a'", "integer"]),
    "an empty grid": (
        {"arms": arms(constant={"schedule": CONSTANT, "grid": {"schedule.peak": []}})},
        ["arms.constant", "grid 'schedule.peak' = []", "one or more different values"],
    ),
    "a grid value twice": (
        {"arms": arms(constant={"schedule": CONSTANT, "grid": {"schedule.peak": [0.1, 0.1]}})},
        ["arms.constant", "[0.1, 0.1]", "one or more different values"],
    ),
    "a grid on the horizon": (
        {"arms": arms(cosine={"schedule": "cosine", "grid": {"schedule.horizon": [10]}})},
        ["arms.cosine", "schedule.horizon", "set by the study"],
    ),
    "a grid on the seed": (
        {"arms": arms(cosine={"schedule": "cosine", "grid": {"train.seed": [1, 2]}})},
        ["arms.cosine", "train.seed", "set by the study"],
    ),
    "a grid on an average": (
        {"arms": arms(constant={"schedule": CONSTANT, "grid": {"averages.ema25": ["uniform"]}})},
        ["arms.constant", "averages.ema25"],
    ),
    "the half of the held-out sequences as a setting": (
        {"settings": {"evaluate.split": "all"}},
        ["evaluate.split", "set by the study"],
    ),
    "a decay that is no step": (
        {"arms": arms(wsd={"trunk": "constant", "cooldown": 0.02})},
        ["arms.wsd", "cooldown = 0.02 of a horizon of 1 units is not one step of 64 tokens"],
    ),
    "an unknown baseline": (
        {"baseline": "cosin"},
        ["baseline = 'cosin'", "did you mean 'cosine'?"],
    ),
    "a recipe that is not there": ({"recipe": "demmo"}, ["'demmo'", "did you mean 'demo'?"]),
    "no arms": ({"arms": {}}, ["arms: there is none"]),
    "a name with a blank": (
        {"arms": arms(**{"a b": {"schedule": CONSTANT, "grid": GRID}})},
        ["arms.a b", "letters, digits, - and _"],
    ),
    "an unknown schedule": (
        {"arms": arms(constant={"schedule": "constnt", "grid": GRID})},
        ["'constnt'", "did you mean 'constant'?"],
    ),
    "a schedule without its peak": (
        {"arms": arms(constant={"schedule": CONSTANT})},
        ["arms.constant", "peak"],
    ),
    "an unknown setting of a recipe": (
        {"settings": {"optimizer.beta9": 0.9}},
        ["optimizer.beta9", "did you mean 'beta2'?"],
    ),
    "a setting in dots without quotes": (
        {"settings": {"optimizer": {"beta2": 0.9}}},
        ["optimizer", "in quotes, is valid"],
    ),
    "a unit that is not the same everywhere": (
        {"arms": arms(cosine={"schedule": "cosine:peak=0.1", "grid": {"train.batch": [4, 8]}})},
        ["arms.cosine", "unit = 20-steps is 2560 tokens at train.batch=8", "train.reference_batch"],
    ),
    "too few evaluations": ({"per_doubling": 0}, ["per_doubling = 0", "1 or more"]),
    "a value of the wrong type": ({"horizons": "all"}, ["horizons = 'all'", "array"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(what: str, tmp_path: Path) -> None:
    keys, words = BAD[what]
    path, out = write(tmp_path, **keys), tmp_path / "out"
    said = cli("study", path, "--out", out)
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, said.err
    assert not out.exists()


def test_an_unknown_rule(tmp_path: Path) -> None:
    path = write(tmp_path, {"averages": {"e": "anytime_em:f=3"}})
    said = cli("study", path, "--out", tmp_path / "out")
    assert said.code == 2
    assert "anytime_em" in said.err
    assert "did you mean 'anytime_ema'?" in said.err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    said = cli("study", tmp_path / "no.toml", "--out", tmp_path / "out")
    assert said.code == 2
    assert "no.toml" in said.err
    (tmp_path / "bad.toml").write_text("name = ")
    said = cli("study", tmp_path / "bad.toml", "--out", tmp_path / "out")
    assert said.code == 2
    assert "bad.toml" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["lokal", "local:slots=0", "local:slot=2"])
def test_a_wrong_executor_leaves_nothing_behind(text: str, tmp_path: Path) -> None:
    said = cli("study", write(tmp_path), "--out", tmp_path / "out", "--executor", text)
    assert said.code == 2
    assert said.err.count("\n") == 1, said.err
    assert not (tmp_path / "out").exists()


# --- what it may say -------------------------------------------------------------------------


def test_kinds_and_points(tmp_path: Path) -> None:
    design = Design(write(tmp_path))
    assert {name: design.kind(name) for name in design.table.arms} == {
        "constant": "free", "cosine": "bound", "wsd": "branch"
    }  # fmt: skip
    assert design.points("wsd") == design.points("constant")
    assert design.arms()["wsd"].points == tuple(design.points("constant"))
    assert design.horizons == [UNIT, 2 * UNIT]
    assert design.unit == UNIT


def test_the_last_key_of_a_grid_is_the_fastest(tmp_path: Path) -> None:
    grid = {"schedule.peak": [0.01, 0.02], "train.batch": [4, 8]}
    arm = {"schedule": CONSTANT, "grid": grid}
    design = Design(write(tmp_path, {"unit": f"{UNIT}-tokens"}, arms={"c": arm}))
    assert design.points("c")[:2] == [
        {"schedule.peak": 0.01, "train.batch": 4}, {"schedule.peak": 0.01, "train.batch": 8}
    ]  # fmt: skip
    recipe = design.recipe("c", {"schedule.peak": 0.02, "train.batch": 8}, 2.0)
    assert recipe.train.batch == 8
    assert recipe.schedule == "constant:warmup=2-steps,peak=0.02"


def test_several_grids_are_taken_together(tmp_path: Path) -> None:
    """Each point once, so that a grid grows where it has to and not as a whole."""
    grids = [{"schedule.peak": [0.01, 0.02], "schedule.warmup": ["2-steps"]},
             {"schedule.warmup": ["1-steps", "2-steps"], "schedule.peak": [0.02]}]  # fmt: skip
    design = Design(write(tmp_path, arms={"c": {"schedule": CONSTANT, "grid": grids}}))
    assert [tuple(point.values()) for point in design.points("c")] == [
        (0.01, "2-steps"), (0.02, "2-steps"), (0.02, "1-steps")
    ]  # fmt: skip
    assert Design(design.path).files() == design.files()
    grids[1] = {"schedule.peak": [0.04]}
    with pytest.raises(UserError, match=r"schedule.peak beside schedule.peak, schedule.warmup"):
        Design(write(tmp_path, arms={"c": {"schedule": CONSTANT, "grid": grids}}))


def test_the_baseline(tmp_path: Path) -> None:
    """The file's, or the first with a horizon, or the first."""
    assert Design(write(tmp_path)).baseline == "cosine"
    assert Design(write(tmp_path, baseline="wsd")).baseline == "wsd"
    free = Design(write(tmp_path, arms=arms(cosine=None)))
    assert free.baseline == "constant"


def test_a_horizon_is_filled_in_in_tokens(tmp_path: Path) -> None:
    design = Design(write(tmp_path))
    schedule = design.recipe("cosine", {"schedule.peak": 0.01}, 2.0).schedule
    assert f"horizon={2 * UNIT}-tokens" in schedule


def test_settings_booleans_integers_and_text(tmp_path: Path) -> None:
    """The study's settings, then the arm's, then the grid's: the later one counts."""
    settings = {"data.document_mask": True, "optimizer.beta2": 0.9, "train.clip": 2.0}
    own = {"optimizer.beta2": 0.8, "optimizer.kind": "adamw"}
    grid = {"schedule.peak": [0.01], "train.clip": [0.5]}
    arm = {"schedule": CONSTANT, "settings": own, "grid": grid}
    design = Design(write(tmp_path, settings=settings, arms={"c": arm}))
    made = design.recipe("c", design.points("c")[0], 1.0)
    assert made.data.document_mask is True
    assert made.optimizer.beta2 == 0.8
    assert made.train.clip == 0.5


def test_moments(tmp_path: Path) -> None:
    """Half-doublings from a quarter unit, and the horizons, whether they are such or not."""
    design = Design(write(tmp_path, horizons=[1.0, 1.9]))
    between = [round(UNIT / 4 * 2 ** (k / 2)) for k in range(7) if 2 ** (k / 2 - 2) < 1.9]
    assert design.moments() == sorted({*between, UNIT, round(1.9 * UNIT)})
    fine = Design(write(tmp_path, per_doubling=4))
    assert len(fine.moments()) == 3 * 4 + 1


def test_a_schedule_without_settings_of_its_own(tmp_path: Path) -> None:
    design = Design(write(tmp_path, arms={"c": {"schedule": "constant", "grid": GRID}}))
    assert design.first.schedule == "constant:peak=0.01"


def test_a_shipped_recipe(tmp_path: Path) -> None:
    grid = {"schedule.peak": [0.01]}
    arm = {"schedule": CONSTANT, "grid": grid}
    assert Design(write(tmp_path, recipe="demo", arms={"c": arm})).first.name == "demo"


def test_the_files_of_a_design_are_the_same_design(tmp_path: Path) -> None:
    """Also of a shipped recipe, of which nothing lies beside the file."""
    given = {
        "settings": {"data.document_mask": True, "optimizer.beta2": 0.9},
        "baseline": "wsd", "per_doubling": 3,
        "arms": arms(wsd={"trunk": "constant", "cooldown": 0.2, "shape": "sqrt", "final": 0.1}),
    }  # fmt: skip
    for name in ("recipe.toml", "demo"):
        first = Design(write(tmp_path / name, **{**given, "recipe": name}))
        folder = tmp_path / f"{name}-again"
        folder.mkdir()
        for file, text in first.files().items():
            (folder / file).write_text(text)
        again = Design(folder / "study.toml")
        assert again.files() == first.files()
        assert again.arms() == first.arms()
        assert again.table.settings == first.table.settings
        for arm in ("constant", "cosine"):
            point = first.points(arm)[0]
            assert again.recipe(arm, point, 2.0) == first.recipe(arm, point, 2.0)
