"""`anytrain theory estimate`: exponents of a real, tiny run; what is refused."""

import json
from pathlib import Path

import pytest

from tiny import cli, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("pilot")
    recipe = write_recipe(folder / "r.toml", corpus)
    assert cli("train", recipe, "--run", folder / "pilot", "--until", "12").code == 0
    return folder / "pilot"


def test_it_estimates(run: Path, corpus: Path) -> None:
    """Both weights, one JSON line each; the interval holds the value; the same every time."""
    words = ("theory", "estimate", f"{run}:raw", f"{run}:ema25", "--data", corpus, "--probes", "8")
    said = cli(*words, "--json")
    assert said.code == 0, said.err
    raw, averaged = (json.loads(line) for line in said.out.splitlines())
    assert raw["weights"].endswith("pilot@12:raw")
    assert averaged["weights"].endswith("pilot@12:ema25")
    for found in (raw, averaged):
        for name in ("capacity", "source"):
            low, high = found[f"{name}_range"]
            assert 0 < low <= found[name] <= high
        assert found["gamma"] == max(1 - found["capacity"] / found["source"], 0)
    assert raw["capacity"] != averaged["capacity"]
    assert cli(*words, "--json").out == said.out


def test_the_text_says_what_to_do_next(run: Path, corpus: Path) -> None:
    said = cli("theory", "estimate", run, "--data", corpus, "--probes", "8")
    assert said.code == 0, said.err
    assert "capacity a" in said.out
    assert ("anytrain theory advise --capacity" in said.out) != ("outside the theory" in said.out)


def test_what_is_refused(run: Path, corpus: Path, tmp_path: Path) -> None:
    wrong = {
        ("--probes", "7"): "--probes 7; 8 or more",
        ("--context", "0"): "--context 0; 1 token",
        ("--probes", "4000"): "fewer probes, or more held-out tokens",
        ("--data", str(tmp_path / "none")): "no such corpus",
    }
    for words, sentence in wrong.items():
        said = cli("theory", "estimate", run, "--data", corpus, "--probes", "8", *words)
        assert said.code == 2, said.err
        assert sentence in said.err
    (tmp_path / "a.txt").write_text("some other text. " * 3000)
    other = tmp_path / "other"
    made = cli("prepare", tmp_path / "a.txt", "--tokenizer", "bpe:270", "--out", other,
               "--validation", "0.5")  # fmt: skip
    assert made.code == 0, made.err
    said = cli("theory", "estimate", run, "--data", other, "--probes", "8")
    assert (said.code, "another tokenizer" in said.err) == (2, True), said.err
