"""Recipes: settings on the command line, and what is wrong in one sentence."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from anytrain.errors import UserError
from anytrain.grammar import Quantity
from anytrain.rules import AnytimeEma, Uniform
from anytrain.schedules import InverseSqrt
from anytrain.training import recipes
from anytrain.training.config import Recipe
from anytrain.training.recipes import override
from tiny import table

HERE = Path("nowhere")


def made(*settings: str, **tables: object) -> Recipe:
    return recipes.recipe(override(table(HERE, **tables), settings), "r.toml")


# --- settings --------------------------------------------------------------------------------


def test_settings_reach_anywhere() -> None:
    recipe = made(
        "train.batch=8",
        "train.micro_batch=2",
        "optimizer.weight_decay=1e-1",
        "optimizer.decay_all=true",
        "name=other",
        "schedule.peak=3e-3",
        "averages.ema25.f=12.5",
        'averages."ema6.25"="anytime_ema:f=6.25"',
        "averages.tail=uniform:start=640-tokens",
        "evaluate.at=[5, '20k-tokens']",
        "checkpoint.every=10min",
        "data.path=/some/where else",
    )
    assert (recipe.train.batch, recipe.train.micro_batch) == (8, 2)
    assert (recipe.optimizer.weight_decay, recipe.optimizer.decay_all) == (0.1, True)
    assert recipe.name == "other"
    assert recipe.built_schedule() == InverseSqrt(3e-3, 4, 16)
    assert recipe.built_rules() == {
        "ema25": AnytimeEma(12.5), "uniform": Uniform(), "ema6.25": AnytimeEma(6.25),
        "tail": Uniform(640 / 128),
    }  # fmt: skip
    assert recipe.evaluate.at == (Quantity(5, "steps"), Quantity(20_000, "tokens"))
    assert recipe.checkpoint.every == Quantity(600, "seconds")
    assert recipe.data.path == "/some/where else"


def test_settings_apply_in_order_and_change_nothing_else() -> None:
    before = table(HERE)
    frozen = tomli_w.dumps(before)
    after = override(before, ["train.batch=8", "train.batch=16"])
    assert after["train"]["batch"] == 16
    assert tomli_w.dumps(before) == frozen
    del after["train"]["batch"], before["train"]["batch"]
    assert after == before


def test_a_schedule_is_exchanged_whole_or_in_part() -> None:
    assert made("schedule=constant:peak=1e-3").schedule == "constant:peak=1e-3"
    assert made("schedule=constant:peak=1e-3", "schedule.peak=2e-3").schedule == (
        "constant:peak=0.002"
    )
    assert made('schedule.warmup="128-tokens"').built_schedule() == InverseSqrt(1e-2, 2, 16)
    nested = "cooldown:trunk=(constant:peak=1e-3,warmup=2-steps),start=9-steps,horizon=10-steps"
    inner = made(f"schedule={nested}", "schedule.trunk.peak=5e-3").built_schedule()
    assert inner.trunk.peak == 5e-3  # type: ignore[attr-defined]
    assert inner.trunk.warmup == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("setting", ["train.batch", "=5", "", "a b=5", "train.=5", "[x]=5"])
def test_what_is_no_setting(setting: str) -> None:
    with pytest.raises(UserError, match=r"is not a setting; key\.path=value is valid"):
        override({}, [setting])


@pytest.mark.parametrize(
    "value",
    [True, 3, 1e-3, 1e-7, float("inf"), "true", "2026", "400-steps", "a\\b", 'say "é"', "\n",
     ["a", "1"], [1, 2.5], {"data/a b": 0.7, "c": [True]}],
)  # fmt: skip
def test_values_as_settings_are_read_back_the_same(value: Any) -> None:
    (setting,) = recipes.settings_of({"a.b": value})
    found = override({}, [setting])["a"]["b"]
    assert (found, type(found)) == (value, type(value))


WRONG = {
    "train.bacth=8": r"unknown key train\.bacth \(did you mean 'batch'\?\)",
    "trian.batch=8": r"unknown key trian \(did you mean 'train'\?\)",
    "model.widht=8": r"unknown key model\.widht \(did you mean 'width'\?\)",
    "checkpoint.evry=5min": r"unknown key checkpoint\.evry \(did you mean 'every'\?\)",
    "train.batch=eight": r"train\.batch = 'eight'",
    "train.batch='8'": r"train\.batch = '8'",
    "train.batch=8.5": r"train\.batch = 8\.5",
    "train.batch=0": r"train\.batch = 0; 1 or more is valid",
    "train.batch=true": r"train\.batch = True",
    "train.batch=[8]": r"train\.batch = \[8\]",
    "train.micro_batch=3": r"train\.micro_batch = 3 does not divide train\.batch = 4",
    "train.precision=fp8": r"train\.precision = 'fp8'",
    "train.clip=0": r"train\.clip = 0\.0; above 0 is valid, absent for none",
    "model.context=8": r"train\.context = 16 exceeds model\.context = 8",
    "name=5": r"name = 5",
    "unit=5": r"unit.*'5' has no unit",
    "unit=soon": r"unit.*'soon' is not a duration",
    "checkpoint.every=50": r"checkpoint\.every.*'50' has no unit",
    "checkpoint.newest=0": r"checkpoint\.newest = 0; 1 or more is valid",
    "checkpoint.disk=0": r"checkpoint\.disk = 0; a number of bytes",
    "checkpoint.at=['x']": r"checkpoint\.at.*'x' is not a duration",
    "evaluate.tokens=5-steps": r"evaluate\.tokens = 5-steps; a number of tokens is valid",
    "evaluate.share=0": r"evaluate\.share = 0\.0; above 0 and at most 1",
    "optimizer.kind=adam": r"optimizer\.kind = 'adam'.*'adamw'",
    "optimizer.beta1=1": r"optimizer\.beta1 = 1\.0; 0 to below 1",
    "optimizer.weight_decay=-1": r"optimizer\.weight_decay = -1\.0; 0 or more",
    "optimizer.kind=muon": r"optimizer\.adamw_peak.*goes with kind = 'muon'",
    "optimizer.adamw_peak=1e-3": r"goes with kind = 'muon' and only with it; kind is 'adamw'",
    "schedule=constant": "constant needs peak",
    "schedule.peak=-1": r"peak = -1\.0; a learning rate above 0",
    "schedule=cosin:peak=1": r"unknown kind 'cosin' \(did you mean 'cosine'\?\)",
    "schedule.warmup=5": r"warmup '5' has no unit",
    "averages.x=anytime_ema:f=0": r"f = 0\.0; above 0 is valid",
    "averages.x=5": r"averages\.x = 5",
    "model.heads=3": r"width = 16; a multiple of heads = 3",
    "model.layers=0": r"layers = 0; a whole number of 1 or more",
    "data.mixture={}": r"data\.mixture is empty; a table of path = weight is valid",
    "log.every=0": r"log\.every = 0; 1 or more steps",
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_is_wrong_is_one_sentence(setting: str) -> None:
    with pytest.raises(UserError, match=WRONG[setting]) as raised:
        made(setting)
    assert str(raised.value).startswith("r.toml: ")
    assert "\n" not in str(raised.value)


def test_what_is_missing() -> None:
    for key in ("name", "schedule", "model", "train"):
        tables = table(HERE)
        del tables[key]
        with pytest.raises(UserError, match=f"r.toml: {key} is missing"):
            recipes.recipe(tables, "r.toml")
    with pytest.raises(UserError, match=r"train\.batch is missing"):
        made(train={"context": 16})
    with pytest.raises(UserError, match=r"mixture.*'b' has weight 0"):
        made(data={"mixture": {"a": 1.0, "b": 0.0}})


# --- files -----------------------------------------------------------------------------------


def test_toml_there_and_back() -> None:
    recipe = made("checkpoint.at=[5, '20k-tokens']", "optimizer.kind=muon",
                  "optimizer.adamw_peak=1e-3", 'averages."a.b"=uniform')  # fmt: skip
    again = recipes.recipe(tomllib.loads(recipe.toml()))
    assert again == recipe
    assert again.toml() == recipe.toml()


@given(
    batch=st.integers(1, 10**6),
    peak=st.floats(1e-9, 1e3),
    unit=st.integers(1, 10**13),
    names=st.lists(st.text("abc.-_ é\"\\'=", min_size=1), max_size=3, unique=True),
)
def test_any_toml_there_and_back(batch: int, peak: float, unit: int, names: list[str]) -> None:
    recipe = made(
        f"train.batch={batch}",
        f"train.micro_batch={batch}",
        f"schedule.peak={peak!r}",
        f"unit={unit}-tokens",
        averages=dict.fromkeys(names, "uniform"),
    )
    assert recipe.built_schedule().peak == peak  # type: ignore[attr-defined]
    assert recipe.unit_tokens == unit
    assert recipes.recipe(tomllib.loads(recipe.toml())) == recipe


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(table(HERE)))
    assert recipes.load(str(path), ["train.batch=8"]).train.batch == 8
    path.write_text("[train\n")
    with pytest.raises(UserError, match=r"mine\.toml is not TOML"):
        recipes.load(str(path))
    with pytest.raises(UserError, match=r"'deno' is neither a file nor a shipped recipe.*'demo'"):
        recipes.load("deno")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"mine\.toml"):
        recipes.load(str(path))


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.toml()


def test_defaults() -> None:
    """The five anytime averages; 20 tokens a non-embedding parameter; clipping at 1."""
    tables = table(HERE)
    del tables["averages"], tables["unit"]
    recipe = recipes.recipe(tables)
    assert list(recipe.built_rules().values()) == [AnytimeEma(f) for f in (6.25, 12.5, 25, 50, 100)]
    assert recipe.unit_tokens == 20 * recipe.model.non_embedding
    assert (recipe.train.clip, recipe.train.deterministic) == (1.0, True)
    assert made("unit=100-steps").unit_tokens == 6400
    assert made("unit=100-steps", "train.batch=8", "train.micro_batch=8",
                "train.reference_batch=4").unit_tokens == 6400  # fmt: skip


def test_muon_needs_a_peak_to_scale_the_other_rate_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytrain.schedules.peak", lambda value: None)
    settings = ["optimizer.kind=muon", "optimizer.adamw_peak=1e-3"]
    with pytest.raises(UserError, match="has no `peak`"):
        recipes.load("demo", settings)
    assert recipes.load("demo").optimizer.kind == "adamw"


def test_other_data_than_the_recipes_are_never_prepared_from_its_sources() -> None:
    """A mistyped data.path must not become the recipe's corpus under another name."""
    assert recipes.load("demo").data.prepare is not None
    assert recipes.load("demo", ["data.path=data/mine"]).data.prepare is None
    mixed = recipes.load("demo", ['data.mixture={"data/a" = 0.7, "data/b" = 0.3}']).data
    assert (mixed.path, mixed.prepare) == (None, None)
    assert mixed.sources == {"data/a": 0.7, "data/b": 0.3}
    asked = ["data.path=data/mine", 'data.prepare.sources=["texts"]']
    assert recipes.load("demo", asked).data.prepare is not None
