"""`anytrain sharpness`: records of tiny runs, going on, paired differences, what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tiny import Said, cli, steps_kept, write_recipe

FEW = ("--probes", "4", "--tokens", "128-tokens")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("sharp")
    recipe = write_recipe(folder / "r.toml", corpus)
    for until in ("8", "16"):
        assert cli("train", recipe, "--run", folder / "a", "--until", until).code == 0
    return folder / "a"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "of"}]
    row = json.dumps({"messages": messages})
    path.write_text(f"{row}\n\n{row}\n")
    return path


def records(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_all_that_is_measured(run: Path, corpus: Path, tmp_path: Path) -> None:
    """Every option at once; the probes are paired; a record a pair in the file."""
    out = tmp_path / "new" / "s.jsonl"
    found = records(cli(
        "sharpness", f"{run}:raw", f"{run}:ema25", "--data", corpus, *FEW, "--top", "2",
        "--density", "--noise", "0.01,0.02", "--slice", "2", "--barrier", "--out", out, "--json",
        "--figure", tmp_path / "s.png",
    ))  # fmt: skip
    raw, average = found
    for made in found:
        samples = made["trace"]["samples"]
        assert len(samples) == 4
        assert made["trace"]["mean"] == pytest.approx(sum(samples) / 4)
        assert made["targets"] == 128
        assert made["eigenvalues"][0] > made["eigenvalues"][1]
        assert sum(made["density"]["weights"]) == pytest.approx(1)
        assert [rise["sigma"] for rise in made["noise"]] == [0.01, 0.02]
        assert made["slice"]["losses"][10] == pytest.approx(made["loss"])
        plane = made["plane"]["losses"]
        assert plane[5] == pytest.approx(made["slice"]["losses"][::2])  # through the middle
        assert len({row[0] for row in plane}) == 11
        assert (made["step"], made["tokens"], made["method"]) == (16, 1024, "exact")
    assert raw["to_first"] is None
    pairs = zip(raw["trace"]["samples"], average["trace"]["samples"], strict=True)
    apart = average["to_first"]
    assert apart["mean"] == pytest.approx(sum(b - a for a, b in pairs) / 4)
    assert apart["paired"]
    assert "barrier" not in raw
    ends = average["barrier"]["losses"]
    assert ends[0] == pytest.approx(average["loss"])
    assert ends[-1] == pytest.approx(raw["loss"])
    assert len(out.read_text().splitlines()) == 2
    for number in (1, 2):
        assert (tmp_path / f"s-plane-{number}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on(run: Path, corpus: Path, chat: Path, tmp_path: Path) -> None:
    """What is there is not measured again; what is missing is added; a torn line goes."""
    out = tmp_path / "s.jsonl"
    words = ("sharpness", f"{run}:raw", f"{run}:ema25", "--data", corpus, chat, *FEW,
             "--context", "32", "--out", out)  # fmt: skip
    first = cli(*words)
    assert first.code == 0, first.err
    whole = out.read_bytes()
    kept = whole.splitlines(keepends=True)
    assert len(kept) == 4
    out.write_bytes(b"".join(kept[:2]) + kept[2][:40])  # killed while the third was written
    assert cli(*words).out == first.out
    again = [json.loads(line) for line in out.read_bytes().splitlines()]
    before = [json.loads(line) for line in kept]
    assert again[:2] == before[:2]  # seconds too: they were not measured again
    assert [r["trace"] for r in again] == [r["trace"] for r in before]
    assert cli(*words).out == first.out
    assert len(out.read_bytes().splitlines()) == 4
    assert cli(*words, "--seed", "1").code == 0  # other probes are other records
    assert len(out.read_bytes().splitlines()) == 8


def test_the_two_methods_agree(run: Path, corpus: Path) -> None:
    words = ("sharpness", f"{run}:raw", "--data", corpus, *FEW, "--json", "--method")
    (exact,), (difference,) = records(cli(*words, "exact")), records(cli(*words, "difference"))
    assert difference["trace"]["samples"] == pytest.approx(exact["trace"]["samples"], rel=0.02)
    assert difference["difference"]["step"] > 0
    assert "difference" not in exact


def test_what_the_assistant_says_counts(run: Path, chat: Path) -> None:
    """Two rows: the tokens of " of" or less and the end of the turn, twice."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    said = len(tokenizer.encode("of").ids) + 1
    words = (
        "sharpness",
        f"{run}:raw",
        "--data",
        chat,
        "--probes",
        "2",
        "--context",
        "64",
        "--json",
    )
    (two,) = records(cli(*words))
    assert two["targets"] == 2 * said
    (one,) = records(cli(*words, "--tokens", "1", "--batch", "1"))
    assert one["targets"] == said
    assert one["loss"] == pytest.approx(two["loss"])  # the rows are equal


def test_moments_of_a_run_and_their_picture(run: Path, corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "trace.png"
    said = cli("sharpness", f"{run}@0..16:raw", f"{run}@0..16:ema25", "--data", corpus, *FEW,
               "--figure", picture)  # fmt: skip
    assert said.code == 0, said.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {picture}" in said.out
    for name in ("raw", "ema25"):
        measured = re.findall(rf"^{run}@(\d+):{name} on", said.out, re.M)
        assert [int(step) for step in measured] == steps_kept(run)
    assert said.out.count("difference") == 2 * len(steps_kept(run)) - 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--probes", "1"), "probes = 1; 2 or more"),
        (("--top", "-1"), "top = -1; 0 or more"),
        (("--slice", "3"), "slice = 3; 1, a line, or 2, a plane"),
        (("--noise", "0.1,x"), "--noise 0.1,x; numbers with commas"),
        (("--noise", "0"), "relative amounts above 0"),
        (("--tokens", "5-steps"), "--tokens 5-steps; 1 token or more"),
        (("--context", "0"), "--context 0; 1 token"),
        (("--batch", "0"), "--batch 0; 1 sequence"),
        (("--figure", "a.gif"), "--figure a.gif; a name in .png or .pdf"),
        (("--data", "none"), "no such corpus"),
        (("--data", "none.jsonl"), "none.jsonl: No such file"),
        (("--barrier",), "to itself; two WEIGHTS or more"),
    ],
)
def test_what_is_refused(
    run: Path, corpus: Path, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    """Before anything is measured, and without a file."""
    out = tmp_path / "s.jsonl"
    said = cli("sharpness", f"{run}:raw", "--data", corpus, *words, "--out", out)
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert sentence in said.err
    assert not out.exists()


def test_a_barrier_between_shapes(run: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", corpus, model={"layers": 2, "width": 16, "heads": 2})
    assert cli("train", recipe, "--run", tmp_path / "b", "--until", "2").code == 0
    words = ("sharpness", f"{run}:raw", f"{tmp_path / 'b'}:raw", "--data", corpus, *FEW)
    said = cli(*words, "--barrier")
    assert (said.code, "shapes differ" in said.err) == (2, True), said.err
    assert not records(cli(*words, "--json"))[1]["to_first"]["paired"]


def test_long_rows_are_left_out_when_asked(run: Path, chat: Path, tmp_path: Path) -> None:
    """What is measured is what is measured without them."""
    words = ("--probes", "2", "--context", "64", "--json", "--drop-long")
    (short,) = records(cli("sharpness", f"{run}:raw", "--data", chat, *words))
    long = tmp_path / "long.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "of " * 99}]
    long.write_text(chat.read_text() + json.dumps({"messages": turns}) + "\n")
    (left,) = records(cli("sharpness", f"{run}:raw", "--data", long, *words))
    assert left["loss"] == pytest.approx(short["loss"])
    assert left["targets"] == short["targets"]
    long.write_text(json.dumps({"messages": turns}) + "\n")
    said = cli("sharpness", f"{run}:raw", "--data", long, *words)
    assert said.code == 2
    assert "1 of 1 rows are longer than 64 + 1 tokens" in said.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1 is not JSON"),
        ('{"text": "a"}', "line 1: messages with a role"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "line 1: messages with a role"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no turn of the assistant"),
        (
            '{"messages": [{"role": "assistant", "content": "' + "of " * 99 + '"}]}',
            "longer than 16",
        ),
        ("", "has no rows"),
    ],
)
def test_chat_rows_that_are_refused(run: Path, tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(line + "\n")
    said = cli("sharpness", f"{run}:raw", "--data", path, "--probes", "2")
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert sentence in said.err


def test_weights_in_bf16_are_read_as_fp32(run: Path, corpus: Path, tmp_path: Path) -> None:
    made = cli("release", f"{run}:raw", "--out", tmp_path / "m", "--dtype", "bfloat16")
    assert made.code == 0, made.err
    (found,) = records(cli("sharpness", tmp_path / "m", "--data", corpus, *FEW, "--json"))
    assert found["run"] is None
    assert found["trace"]["stderr"] > 0


def test_a_file_of_something_else(run: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    out.write_text('{"a": 1}\n')
    said = cli("sharpness", f"{run}:raw", "--data", corpus, *FEW, "--out", out)
    assert said.code == 2
    assert "s.jsonl, line 1" in said.err
    assert out.read_text() == '{"a": 1}\n'
