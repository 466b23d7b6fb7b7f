"""`anytrain release`, `generate` and `plan`."""

import json
from pathlib import Path

import pytest
import torch

from anytrain.references import open_weights
from tiny import cli


@pytest.fixture
def run(recipe_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    assert cli("train", recipe_file, "--run", path, "--until", "8").code == 0
    return path


# --- release ---------------------------------------------------------------------------------


def test_a_release_is_the_weights_it_names(run: Path, tmp_path: Path) -> None:
    """Plain transformers computes what our decoder does with those weights of the run."""
    transformers = pytest.importorskip("transformers")
    from anytrain.models.decoder import Decoder

    out = tmp_path / "model"
    said = cli("release", f"{run}:uniform", "--out", out, "--json")
    assert json.loads(said.out)["source"] == f"{run}@8:uniform"
    with open_weights(f"{run}:uniform") as weights:
        ours = Decoder.loaded(weights.shape, weights.tensors)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=1e-5, atol=1e-5)
    words = transformers.AutoTokenizer.from_pretrained(out)
    assert words.decode(words("the of and")["input_ids"]) == "the of and"


def test_the_best_weights_are_released_and_the_card_says_why(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert cli("release", run, "--out", out).code == 0
    with open_weights(str(run)) as weights:
        assert weights.origin is not None
        chosen, evaluation = weights.origin.chosen, weights.origin.evaluation
    assert evaluation is not None
    assert evaluation.losses[chosen] == min(evaluation.losses.values())
    card = (out / "README.md").read_text()
    for part in (
        f"| {chosen} **(released)** |",
        f"`{chosen}` has the lowest validation loss of all candidates (measured at step 8).",
        "| ema25", "| uniform", "| raw", "anytime_ema:f=25",
        "- tokens seen: 512 (8 steps of 4 × 16)",
        "learning rate at that step: 0.00894",  # 1e-2·√(16 / (8 − 4 + 16))
        "manifest sha256",
        f"- `{run}` (",
    ):  # fmt: skip
        assert part in card, part


def test_a_card_tells_where_a_fork_is_from(run: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    assert cli("fork", run, "--out", branch, "optimizer.weight_decay=0.1").code == 0
    assert cli("release", f"{branch}:raw", "--out", tmp_path / "model").code == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"- forked from `{run}`" in card
    assert "at step 8, 512 tokens; optimizer.weight_decay: 0.0 → 0.1" in card


def test_a_release_in_16_bits(run: Path, tmp_path: Path) -> None:
    assert cli("release", f"{run}:raw", "--out", tmp_path / "m", "--dtype", "bfloat16").code == 0
    with open_weights(str(tmp_path / "m")) as half, open_weights(f"{run}:raw") as full:
        for name, tensor in full.tensors.items():
            assert torch.equal(half.tensors[name], tensor.bfloat16())


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("{run}:ema26", "did you mean 'ema25'?"),
        ("{run}@7", "no checkpoint there; nearest: 8 (512-tokens)"),
        ("{run}x", "is not a run"),
        ("{run}@soon", "is not a duration"),
    ],
)
def test_weights_that_are_not_there(weights: str, sentence: str, run: Path, tmp_path: Path) -> None:
    said = cli("release", weights.format(run=run), "--out", tmp_path / "model")
    assert (said.code, sentence in said.err) == (2, True), said.err
    assert not (tmp_path / "model").exists()


def test_what_is_there_is_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("precious")
    assert cli("release", run, "--out", tmp_path / "model").code == 2
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["mine"]


# --- generate --------------------------------------------------------------------------------


def test_a_release_continues_a_prompt_as_its_run_does(run: Path, tmp_path: Path) -> None:
    arguments = ("the of", "--tokens", "12", "--temperature", "0", "--json")
    ours = json.loads(cli("generate", f"{run}:ema25", *arguments).out)
    assert cli("release", f"{run}:ema25", "--out", tmp_path / "model").code == 0
    theirs = json.loads(cli("generate", tmp_path / "model", *arguments).out)
    assert ours["text"] == theirs["text"]
    assert ours["weights"] == f"{run}@8:ema25"


def test_a_seed_decides_the_sample(run: Path) -> None:
    def text(seed: str) -> str:
        return cli("generate", run, "the", "--tokens", "20", "--seed", seed).out

    assert text("0") == text("0")
    assert text("0") != text("1")
    assert text("0").startswith("the")


@pytest.mark.parametrize(
    "wrong", [("--tokens", "0"), ("--temperature", "-1"), ("--top-k", "-5"), ("--tokens", "few")]
)
def test_a_wrong_sampling_setting_is_named(wrong: tuple[str, str], run: Path) -> None:
    said = cli("generate", run, "the", *wrong)
    assert said.code == 2
    assert wrong[0] in said.err
    assert len(said.err.strip().splitlines()) == 1


# --- plan ------------------------------------------------------------------------------------

PUBLISHED = {  # parameters in all, non-embedding
    ("anytime-150m",): (216.8e6, 151e6),
    ("anytime-300m",): (367.9e6, 302e6),
    ("wso-1b",): (1.236e9, None),
    ("wso-1b", "model.tied=false"): (1.498e9, None),
    ("wso-8b",): (8.03e9, None),
}


@pytest.mark.parametrize("arguments", PUBLISHED, ids=" ".join)
def test_a_plan_has_the_published_sizes(arguments: tuple[str, ...]) -> None:
    made = json.loads(cli("plan", *arguments, "--json").out)
    total, body = PUBLISHED[arguments]
    assert made["parameters"] == pytest.approx(total, rel=5e-4)
    assert body is None or made["non_embedding"] == pytest.approx(body, rel=2e-3)


def test_a_plan_of_the_paper_has_its_unit() -> None:
    made = json.loads(cli("plan", "anytime-150m", "--json").out)
    assert (made["unit_tokens"], made["unit_steps"]) == (3_276_800_000, 12_500)


def test_devices_share_the_state(run: Path) -> None:
    one = json.loads(cli("plan", "wso-1b", "--json").out)
    eight = json.loads(cli("plan", "wso-1b", "--devices", "8", "--json").out)
    for part in ("weights", "gradients", "optimizer", "averages"):
        assert eight[part] == pytest.approx(one[part] / 8, rel=1e-6)
    assert eight["checkpoint"] == one["checkpoint"]


def test_a_plan_of_a_checkpoint_is_its_size(recipe_file: Path, run: Path) -> None:
    """To a few kilobytes of headers."""
    made = json.loads(cli("plan", recipe_file, "--json").out)
    saved = sum(p.stat().st_size for p in (run / "checkpoints/step-000000008").iterdir())
    assert 0 < saved - made["checkpoint"] < 40_000


@pytest.mark.parametrize("wrong", [("--devices", "0"), ("--speed", "-1"), ("nothing",)])
def test_a_plan_that_makes_no_sense(wrong: tuple[str, ...]) -> None:
    said = cli("plan", *(() if wrong == ("nothing",) else ("demo",)), *wrong)
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
