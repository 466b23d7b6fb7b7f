"""`anytrain finetune`: a sweep, killed and gone on with, and what it refuses."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.files import read_lines
from tiny import Said, cli, files

pytest.importorskip("trl")

from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import read_directory, write_directory
from anytrain.models.shape import DecoderShape

SHAPE = DecoderShape(layers=1, width=16, heads=2, vocab=280, context=48)
WORDS = "the of and to in is that for it as was with be by on not he his but at are"
OPTIONS = ("--lr", "1e-3,1e-2", "--seeds", "2", "--batch", "32", "--metric", "loss")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("base") / "a"
    model = Decoder.seeded(SHAPE, 0)
    write_directory(out, SHAPE, model.state_dict(), tokenizer=corpus / "tokenizer.json", eot=0)
    return out


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    words = WORDS.split()
    rows = [{"prompt": f"{n}", "completion": words[n % 3]} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def finetune(base: Path, chat: Path, out: Path, *more: str | Path) -> Said:
    return cli("finetune", base, "--data", chat, "--out", out, *OPTIONS, *more)


@pytest.fixture(scope="module")
def swept(base: Path, chat: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "sweep"
    said = finetune(base, chat, out, "--retention", corpus)
    assert said.code == 0, said.err
    assert "0.01 *" in said.out  # the rate that learns more in six steps
    assert "a: 0.01 is the highest rate of its grid" in said.out
    return out


def points(out: Path) -> list[dict[str, Any]]:
    """Without how long they took."""
    return [{k: v for k, v in p.items() if k != "seconds"} for p in
            read_lines(out / "points.jsonl")]  # fmt: skip


def table(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_points(swept: Path) -> None:
    found = points(swept)
    assert [(p["phase"], p["lr"], p["seed"]) for p in found] == [
        ("before", None, None), ("tune", 1e-3, 0), ("tune", 1e-2, 0),
        ("report", 1e-2, 1), ("report", 1e-2, 2),
    ]  # fmt: skip
    before, slow, fast, *seeds = found
    assert fast["selection_loss"] < slow["selection_loss"] < before["selection_loss"]
    assert fast["steps"] == 6  # 90% of 200 rows in batches of 32
    assert seeds[0]["report_loss"] != seeds[1]["report_loss"]  # another order
    # what was learnt instead of the text is measured, before and after
    assert before["retention_loss"] != fast["retention_loss"]
    for p, name in ((before, "a"), (fast, "a-lr0.01-seed0")):
        rows = list(read_lines(swept / "rows" / f"{name}.jsonl"))
        for part in ("selection", "report"):
            own = [r for r in rows if r["part"] == part]
            mean = sum(r["loss"] for r in own) / sum(r["tokens"] for r in own)
            assert p[f"{part}_loss"] == pytest.approx(mean)
            assert p[f"{part}_score"] == pytest.approx(sum(r["correct"] for r in own) / len(own))


def test_the_table(swept: Path) -> None:
    before, slow, fast = table(swept)
    assert (before["lr"], slow["lr"], fast["lr"]) == ("", "0.001", "0.01")
    assert (slow["chosen"], fast["chosen"], fast["seeds"]) == ("0", "1", "2")
    seeds = [p["report_loss"] for p in points(swept) if p["phase"] == "report"]
    assert float(fast["report_loss"]) == pytest.approx(sum(seeds) / 2)
    half = 12.7062 * abs(seeds[0] - seeds[1]) / 2  # Student's t, one degree of freedom
    assert float(fast["report_loss_high"]) == pytest.approx(sum(seeds) / 2 + half, rel=1e-5)
    assert slow["report_loss"] == ""  # not the chosen rate: nothing to report


def test_what_is_kept_loads_by_itself(swept: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = swept / "models"
    assert sorted(p.name for p in kept.iterdir()) == ["a-lr0.01-seed1", "a-lr0.01-seed2"]
    path = kept / "a-lr0.01-seed1"
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "7"}], tokenize=False,
                                         add_generation_prompt=True)  # fmt: skip
    assert text == "User:\n7\nAssistant:\n"
    x = torch.tensor([tokenizer(text)["input_ids"]])
    ours = Decoder.loaded(*read_directory(path))
    torch.testing.assert_close(model(x).logits, ours(x), atol=1e-5, rtol=1e-4)


def test_the_same_again_does_nothing_and_more_adds(
    swept: Path, base: Path, chat: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    before = files(out)
    assert finetune(base, chat, out, "--retention", corpus).code == 0
    assert files(out) == before
    said = cli("finetune", base, "--data", chat, "--out", out, "--batch", "32", "--metric", "loss",
               "--retention", corpus, "--lr", "1e-4", "--seeds", "1", "--keep", "none")  # fmt: skip
    assert said.code == 0, said.err
    assert len(points(out)) == 6
    assert [row["lr"] for row in table(out)] == ["", "0.0001", "0.001", "0.01"]
    assert table(out)[3]["seeds"] == "2"  # 0.01 is still the best there


def test_a_rate_that_another_sweep_chose(
    swept: Path, base: Path, chat: Path, tmp_path: Path
) -> None:
    """Nothing is tuned: a report at that rate, and the table says so."""
    words = ("finetune", base, "--data", chat, "--batch", "32", "--metric", "loss", "--seeds", "1",
             "--keep", "none")  # fmt: skip
    out = tmp_path / "other"
    said = cli(*words, "--out", out, "--lr-of", swept)
    assert said.code == 0, said.err
    assert [(p["phase"], p["lr"]) for p in points(out)] == [("before", None), ("report", 1e-2)]
    _, row = table(out)
    assert (row["chosen"], row["selection_loss"]) == ("1", "")
    same = next(p for p in points(swept) if p["phase"] == "report")
    assert points(out)[1]["report_loss"] == same["report_loss"]
    for where in (tmp_path / "none", out):  # out chose none itself
        said = cli(*words, "--out", tmp_path / "third", "--lr-of", where)
        assert (said.code, said.err.count("\n")) == (2, 1), said.err
        assert "a sweep of one base that chose a rate is valid" in said.err
        assert not (tmp_path / "third").exists()


def test_cut_off_anywhere_it_goes_on_to_the_same(
    swept: Path, base: Path, chat: Path, corpus: Path, tmp_path: Path
) -> None:
    """Two points, a torn third line, its model and rows there already."""
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    lines = (out / "points.jsonl").read_bytes().splitlines(keepends=True)
    (out / "points.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    (out / "table.csv").unlink()
    (out / "models" / "a-lr0.01-seed1" / "model.safetensors").write_bytes(b"torn")
    said = finetune(base, chat, out, "--retention", corpus)
    assert said.code == 0, said.err
    assert points(out) == points(swept)
    assert (out / "table.csv").read_bytes() == (swept / "table.csv").read_bytes()
    again, first = files(out), files(swept)
    assert again.keys() == first.keys()
    assert [n for n in first if again[n] != first[n]] == ["points.jsonl"]  # seconds


def test_a_rate_that_diverges_is_recorded_and_not_chosen(
    base: Path, chat: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    said = cli("finetune", base, "--data", chat, "--out", out, "--lr", "1e-3,1e8", "--seeds", "1",
               "--batch", "32", "--warmup", "0", "--metric", "loss", "--keep", "none")  # fmt: skip
    assert said.code == 0, said.err
    assert [p["diverged"] for p in points(out)] == [False, False, True, False]
    assert points(out)[3]["lr"] == 1e-3
    assert not (out / "models").exists()


def test_what_begins_worse_than_a_guess_and_gains_has_not_diverged(
    chat: Path, corpus: Path, tmp_path: Path
) -> None:
    """A base that was never asked such a question may start above log(tokens)."""
    bad, out, model = tmp_path / "bad", tmp_path / "sweep", Decoder.seeded(SHAPE, 0)
    with torch.no_grad():
        model.head.mul_(100)
    write_directory(bad, SHAPE, model.state_dict(), tokenizer=corpus / "tokenizer.json", eot=0)
    said = cli("finetune", bad, "--data", chat, "--out", out, "--lr", "1e-4", "--seeds", "1",
               "--batch", "32", "--metric", "loss", "--keep", "none")  # fmt: skip
    assert said.code == 0, said.err
    before, tuned, _ = (point["selection_loss"] for point in points(out))
    assert math.log(SHAPE.tokens) < tuned < before
    assert not any(point["diverged"] for point in points(out))


def test_answers_can_be_chosen_instead_of_written(base: Path, chat: Path, tmp_path: Path) -> None:
    """Five answers; the choice is the score that is shown and that the rate is chosen by."""
    words = ("the", "and", "for", "was", "his")
    rows = [{"prompt": f"{n} {words[n % 5]}", "completion": words[n % 5]} for n in range(200)]
    data, out = tmp_path / "chat.jsonl", tmp_path / "sweep"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--lr", "1e-4,1e-2", "--seeds", "1", "--batch", "4", "--metric", "choice")
    said = cli("finetune", base, "--data", data, "--out", out, "--epochs", "4", *options)
    assert said.code == 0, said.err
    assert "choice" in said.out
    assert "exact_match" not in said.out
    scores = {p["lr"]: p["selection_score"] for p in points(out) if p["phase"] == "tune"}
    assert points(out)[-1]["lr"] == 1e-2
    assert scores[1e-2] > max(0.5, scores[1e-4])
    said = cli("finetune", base, "--data", chat, "--out", tmp_path / "b", *options)
    assert said.code == 2
    assert "3 different answers are held out" in said.err
    assert not (tmp_path / "b").exists()


def test_dpo_from_a_fine_tuned_model(swept: Path, tmp_path: Path) -> None:
    """What a sweep kept is a base like any other, its template included."""
    pairs = [{"prompt": f"{n}", "chosen": "that", "rejected": "not"} for n in range(120)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    out = tmp_path / "dpo"
    said = cli("finetune", swept / "models" / "a-lr0.01-seed1", "--method", "dpo", "--data", data,
               "--out", out, "--lr", "1e-3", "--seeds", "1", "--batch", "32", "--json",
               "dpo.beta=0.5")  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads(said.out)["chosen"] == {"a-lr0.01-seed1": 1e-3}
    before, tune, _ = points(out)
    assert before["selection_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert tune["selection_loss"] < before["selection_loss"]
    assert tune["selection_score"] == 1


# --- refusals -------------------------------------------------------------------------------------


def _no_tokenizer(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    return folder / "bare"


def _short(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder / "short")
    file = folder / "short" / "config.json"
    file.write_text(file.read_text().replace('"max_position_embeddings": 48',
                                             '"max_position_embeddings": 22'))  # fmt: skip
    return folder / "short"


def _template(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder / "plain")
    (folder / "plain" / "chat_template.jinja").write_text("{{ messages }}")
    return folder / "plain"


def _same(base: Path, folder: Path) -> Path:
    return base


@pytest.mark.parametrize(
    ("make", "more", "says"),
    [
        (_no_tokenizer, [], "bare has no tokenizer"),
        (_template, [], "its chat template has no {% generation %}"),
        (_short, [], "rows are too long, the first: "),
        (_same, ["--lr", "1e-3,x"], "--lr '1e-3,x': 'x' is no number"),
        (_same, ["--lr", "1e-3,-1"], "-1 is no rate; numbers above 0"),
        (_same, ["--lr", "1e-3,0.001"], "0.001 is there twice"),
        (_same, ["--seeds", "0"], "--seeds 0; 1 or more"),
        (_same, ["--batch", "0"], "--batch 0; a whole number of 1 or more"),
        (_same, ["--metric", "accuracy"], "--metric accuracy: with --method sft, exact_match"),
        (_same, ["--data", "none.jsonl"], "--data none.jsonl: no such file"),
        (_same, ["--validation", "none.jsonl"], "--validation none.jsonl: no such file"),
        (_same, ["--template", "none.jinja"], "--template none.jinja"),
        (_same, ["sft.adam_beta=0.5"], "sft.adam_beta: TRL has no such setting (did you mean"),
        (_same, ["sft.packing=true"], "sft.packing: the sweep sets it itself"),
        (_same, ["sft.adam_beta2=high"], "sft.adam_beta2 = 'high'; a number is valid"),
        (_same, ["dpo.beta=0.5"], "'dpo.beta=0.5' is no setting; sft.KEY=VALUE is valid"),
    ],
)  # fmt: skip
def test_what_is_refused_in_a_sentence(
    make: Callable[[Path, Path], Path], more: list[str], says: str, base: Path, chat: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "sweep"
    said = finetune(make(base, tmp_path), chat, out, *more)
    assert said.code == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not out.exists()


def test_rows_that_are_too_long_are_left_out_when_asked(
    base: Path, chat: Path, tmp_path: Path
) -> None:
    said = finetune(_short(base, tmp_path), chat, tmp_path / "o", "--drop-long", "--seeds", "1")
    assert said.code == 0, said.err
    assert "rows are too long, the first: " in said.out
    assert "left out" in said.out
    _, tune, *_ = points(tmp_path / "o")
    assert tune["steps"] == 2  # of the 6 that all rows take


def test_other_settings_need_another_place(
    swept: Path, base: Path, chat: Path, corpus: Path, tmp_path: Path
) -> None:
    before = files(swept)
    for more, says in (
        (["--epochs", "2"], "was begun with epochs = 1, not 2"),
        (["sft.adam_beta2=0.9"], "was begun with trl = {}, not {'adam_beta2': 0.9}"),
    ):
        said = finetune(base, chat, swept, "--retention", corpus, *more)
        assert said.code == 2
        assert says in said.err
    shutil.copytree(base, tmp_path / "a")
    said = finetune(tmp_path / "a", chat, swept, "--retention", corpus)
    assert said.code == 2
    assert "another --out is valid" in said.err
    assert files(swept) == before


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_table(
    swept: Path, base: Path, chat: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    words = ["finetune", base, "--data", chat, "--out", out, *OPTIONS, "--retention", corpus]
    command = [sys.executable, "-m", "anytrain", *map(str, words)]
    seen = 0
    while seen < 4:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(points(out)) <= seen:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen = len(points(out))
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert points(out) == points(swept)
    assert (out / "table.csv").read_bytes() == (swept / "table.csv").read_bytes()


@pytest.mark.slow
def test_two_processes_train_the_same(
    swept: Path, base: Path, chat: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    words = ["finetune", base, "--data", chat, "--out", out, *OPTIONS, "--retention", corpus]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--standalone", "--local-addr", "127.0.0.1", "-m", "anytrain",
               *map(str, words)]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for one, other in zip(points(out), points(swept), strict=True):
        assert (one["lr"], one["seed"], one["steps"] if one["lr"] else 0) == (
            other["lr"], other["seed"], other["steps"] if other["lr"] else 0)  # fmt: skip
        assert one["report_loss"] == pytest.approx(other["report_loss"], abs=2e-3)
