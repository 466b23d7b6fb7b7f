"""The harness's numbers are the decoder's, and a model of known answers gets the known score."""

import json
from pathlib import Path

import pytest
import torch
from task_models import rigged, write

from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.models.generate import generate
from anytrain.models.shape import DecoderShape
from anytrain.posttrain.candidates import directory, opened
from anytrain.posttrain.harness import Task, find, load
from anytrain.posttrain.local_tasks import choice_task, exact_match_task
from anytrain.posttrain.scoring import Model, open_model, score
from anytrain.posttrain.suites import Asked
from anytrain.posttrain.tasks import Settings, evaluate

pytestmark = pytest.mark.usefixtures("own_module_cache")

SHAPES = {
    "llama": DecoderShape(2, 32, 4, 257, kv_heads=2, context=48),
    "own": DecoderShape(
        2, 32, 4, 257, context=48, norm="layernorm", activation="gelu", qk_norm=True
    ),
}
LONG = "a question that is longer than the context of forty-eight tokens, by some:"
PAIRS = [("What?", " this"), ("What?", " that thing"), ("", "bare"), (LONG, " yes"), ("é:", "→")]


def opened_model(path: Path, cache: Path) -> Model:
    with opened(str(path)) as candidate:
        folder, own_code = directory(candidate, cache)
        return open_model(folder, path.name, own_code, "cpu", 3)


@torch.no_grad()
def log_likelihood(decoder: Decoder, context: list[int], continuation: list[int]) -> float:
    """Σ log p of a continuation's tokens, what does not fit cut from the left."""
    whole = torch.tensor([(context + continuation)[-(decoder.shape.context + 1) :]])
    scores = decoder(whole[:, :-1]).float().log_softmax(-1)  # (1, T, V)
    wanted = scores[0, -len(continuation) :].gather(-1, whole[0, -len(continuation) :, None])
    return float(wanted.sum())


@pytest.mark.parametrize("name", SHAPES)
def test_log_likelihoods_are_the_decoders(name: str, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    decoder = Decoder.seeded(SHAPES[name], 0)
    with torch.no_grad():  # logits of some nats, not of hundredths
        decoder.state_dict()["lm_head.weight"].mul_(20)
    model = opened_model(write(tmp_path / name, decoder), tmp_path / "cache")
    found = model.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    )
    for (context, continuation), (value, _) in zip(PAIRS, found, strict=True):
        ids = [model.tok_encode(text) if text else [0] for text in (context, continuation)]
        assert value == pytest.approx(log_likelihood(decoder, *ids), abs=1e-4)
    assert model.truncated == 1


@pytest.mark.parametrize("name", SHAPES)
def test_generated_texts_are_the_decoders(name: str, tmp_path: Path) -> None:
    """Batches padded on the left, with a cache of keys or without one."""
    from lm_eval.api.instance import Instance

    decoder = Decoder.seeded(SHAPES[name], 0)
    with torch.no_grad():
        decoder.state_dict()["lm_head.weight"].mul_(20)
    model = opened_model(write(tmp_path / name, decoder), tmp_path / "cache")
    options = {"until": [], "max_gen_toks": 12, "do_sample": False}
    texts = ["What?", "a longer question", "x", "two words"]
    found = model.generate_until(
        [Instance("generate_until", {}, (t, options), i) for i, t in enumerate(texts)]
    )
    for text, answer in zip(texts, found, strict=True):
        made = generate(decoder, model.tok_encode(text), max_new=12, temperature=0, top_k=None,
                        seed=0, eot=0)  # fmt: skip
        assert answer == model.tok_decode([token for token in made if token != 0])


def test_a_directorys_code_is_not_run(tmp_path: Path) -> None:
    """Our own kind of model is written anew: what is in its directory is read, not run."""
    given = write(tmp_path / "own", Decoder.seeded(SHAPES["own"], 0), chat=True)
    (given / "modeling_anytrain.py").write_text("raise SystemExit('it was run')")
    model = opened_model(given, tmp_path / "cache")
    assert model.tokenizer.chat_template  # the directory's own tokenizer all the same


# --- known scores ------------------------------------------------------------------------------


def choices(folder: Path) -> Path:
    """Ten questions, of which `y` is right for six."""
    rows = [
        {"question": f"Is it {i}?", "choices": ["y", "n", "m"], "answer": int(i >= 6)}
        for i in range(10)
    ]
    return choice_task(rows, "six", folder)


def test_a_rigged_model_gets_the_known_score(tmp_path: Path) -> None:
    model = write(tmp_path / "m", rigged({"?": " ", " ": "y", "y": "\n"}))
    rows = [{"question": f"Is it {i}?", "answer": "y" if i < 3 else "n"} for i in range(8)]
    said = exact_match_task(rows, "said", tmp_path / "tasks")
    six = choices(tmp_path / "tasks")
    first, second = evaluate([str(model)], [f"{six},{said}"], tmp_path / "out", Settings())
    assert (first["metric"], first["score"], first["documents"]) == ("acc_norm", 0.6, 10)
    assert first["stderr"] == pytest.approx((0.6 * 0.4 / 9) ** 0.5)
    assert first["metrics"]["acc_norm_stderr,none"] == pytest.approx(first["stderr"])
    assert (second["metric"], second["score"], second["documents"]) == ("exact_match", 3 / 8, 8)
    kept = [json.loads(line) for line in
            (tmp_path / "out/documents" / first["file"]).read_text().splitlines()]  # fmt: skip
    assert [document["score"] for document in kept] == [1.0] * 6 + [0.0] * 4
    # y is 10 nats above the others but for RMSNorm's ε of 1e-5 on a mean square of 1/260
    above = kept[0]["answer"][0] - kept[0]["answer"][1]
    assert above == pytest.approx(10 / (1 + 260e-5) ** 0.5, abs=1e-4)
    said_documents = (tmp_path / "out/documents" / second["file"]).read_text()
    assert json.loads(said_documents.splitlines()[0])["answer"] == [" y"]
    assert not (tmp_path / "out/models").exists()


def test_shots_limit_and_cut_requests(tmp_path: Path) -> None:
    model = write(tmp_path / "m", rigged({" ": "n"}, context=40))
    six = choices(tmp_path / "tasks")
    records = evaluate([str(model)], [f"{six},{six}:4"], tmp_path / "out", Settings(limit=7))
    assert [r["label"] for r in records] == ["six:0", "six:4"]
    assert [r["score"] for r in records] == pytest.approx([1 / 7, 1 / 7])  # only `Is it 6?`
    assert [r["truncated"] for r in records] == [0, 7 * 3]  # 4 shots × 12 characters > 40


def test_a_group_is_the_mean_of_all_its_documents(tmp_path: Path) -> None:
    """Six of ten and none of two: 6/12, by acc, the first metric that both tasks have."""
    model = opened_model(write(tmp_path / "m", rigged({" ": "y"})), tmp_path / "cache")
    choices(tmp_path)
    rows = [{"question": "?", "choices": ["y", "n"], "answer": 1}] * 2
    other = choice_task(rows, "none", tmp_path)
    other.write_text(other.read_text().partition("  - metric: acc_norm")[0])
    parts = [load(find(Asked(str(tmp_path / f"{name}.yaml")))[0], tmp_path)[0]
             for name in ("six", "none")]  # fmt: skip
    found = score(model, Task("both", None, False, "both"), parts, None, False)
    assert (found.metric, found.score, len(found.documents)) == ("acc", 0.5, 12)
    assert found.stderr == pytest.approx((0.25 / 11) ** 0.5)
    assert {document["task"] for document in found.documents} == {"six", "none"}


def test_of_several_filters_the_first(tmp_path: Path) -> None:
    """As GSM8K has: `strict` wants #### before a number, `loose` any number."""
    model = write(tmp_path / "m", rigged({"?": "7", "7": "\n"}))
    made = exact_match_task([{"question": "?", "answer": "7"}] * 2, "sums", tmp_path, tokens=4)
    text = made.read_text()
    filters = text[text.index("filter_list") : text.index("metric_list")]
    made.write_text(text.replace("generation_kwargs", "target_delimiter: ''\ngeneration_kwargs")
        .replace(filters, """filter_list:
  - name: strict
    filter: [{function: regex, regex_pattern: '#### ([0-9]+)'}, {function: take_first}]
  - name: loose
    filter: [{function: regex, regex_pattern: '([0-9]+)'}, {function: take_first}]
"""))  # fmt: skip
    (record,) = evaluate([str(model)], [str(made)], tmp_path / "out", Settings())
    assert (record["metric"], record["score"]) == ("exact_match,strict", 0.0)
    assert record["metrics"]["exact_match,loose"] == 1.0
    assert record["documents"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 3])
def test_the_harnesss_own_command_says_the_same(shots: int, tmp_path: Path) -> None:
    """A seeded model, whose answers depend on which solved examples it is shown."""
    import lm_eval

    decoder = Decoder.seeded(DecoderShape(2, 32, 4, 257, context=200), 0)
    with torch.no_grad():
        decoder.state_dict()["lm_head.weight"].mul_(20)
    rows = [
        {"question": f"{i * 37}?", "choices": ["a b", "cde", "fghij"], "answer": i % 3}
        for i in range(60)
    ]
    task, model = choice_task(rows, "any", tmp_path), write(tmp_path / "m", decoder)
    (ours,) = evaluate([str(model)], [f"{task}:{shots}"], tmp_path / "out", Settings())
    spec = find(Asked(str(task)))[0].spec
    theirs = lm_eval.simple_evaluate(
        "hf", {"pretrained": str(model)}, [dict(spec)], shots, device="cpu"
    )
    assert theirs is not None
    assert ours["metrics"]["acc,none"] == theirs["results"]["any"]["acc,none"]
    assert ours["score"] == theirs["results"]["any"]["acc_norm,none"]
    assert ours["stderr"] == pytest.approx(theirs["results"]["any"]["acc_norm_stderr,none"])


def test_the_chat_template_is_applied(tmp_path: Path) -> None:
    """`[me]` ends a question then: the rigged bracket answers, and the bare question does not."""
    follows = {"]": "n", "?": " ", " ": "y", "n": "\n", "y": "\n"}
    model = write(tmp_path / "m", rigged(follows), chat=True)
    rows = [{"question": f"Is it {i}?", "answer": "n"} for i in range(3)]
    task = str(exact_match_task(rows, "chat", tmp_path / "tasks"))
    plain = evaluate([str(model)], [task], tmp_path / "out", Settings())
    chat = evaluate([str(model)], [task], tmp_path / "out", Settings(chat=True))
    assert (plain[0]["score"], chat[0]["score"]) == (0.0, 1.0)
    bare = write(tmp_path / "bare", rigged(follows))
    with pytest.raises(UserError, match="bare: its tokenizer has no chat template"):
        evaluate([str(bare)], [task], tmp_path / "out", Settings(chat=True))


def test_what_cannot_fit_the_context(tmp_path: Path) -> None:
    model = write(tmp_path / "m", rigged({}, context=32))
    task = exact_match_task([{"question": "?", "answer": "y"}], "long", tmp_path, tokens=32)
    with pytest.raises(UserError, match="generates up to 32 tokens; less than the model's context"):
        evaluate([str(model)], [str(task)], tmp_path / "out", Settings())
    rows = [{"question": "?", "choices": ["y" * 40, "n"], "answer": 0}]
    wide = choice_task(rows, "wide", tmp_path)
    with pytest.raises(UserError, match="an answer has 41 tokens; 32 fit"):
        evaluate([str(model)], [str(wide)], tmp_path / "out", Settings())


def test_the_batch_is_what_memory_takes() -> None:
    """Four fp32 copies of the logits of whole contexts, in 4 GB on a CPU."""
    from types import SimpleNamespace

    from anytrain.posttrain.scoring import fitting

    def batch(vocab: int, context: int) -> int:
        config = SimpleNamespace(vocab_size=vocab, max_position_embeddings=context)
        return fitting(SimpleNamespace(config=config, device=torch.device("cpu")))

    assert batch(280, 128) == 64
    assert batch(50_000, 1024) == 4  # 0.82 GB each
    assert batch(128_256, 2048) == 1  # 4.2 GB
