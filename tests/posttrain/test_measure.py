"""One forward pass says what decoding token by token would."""

from math import exp, log
from typing import Any

import pytest
import torch
from small_sweeps import conversations, preferences, row

from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import read_directory
from anytrain.posttrain import measure, tuner
from anytrain.posttrain.bases import Base
from anytrain.posttrain.rows import Row
from anytrain.posttrain.settings import Settings
from anytrain.posttrain.tokens import EncodedRow, encode


def rows(tokenizer: Any, count: int) -> list[EncodedRow]:
    found = []
    for n, said in enumerate(conversations(count)):
        turns = row(("user", said["prompt"]), ("assistant", said["completion"])).answer
        found.append(encode(Row("x", f"{n:016x}", turns[:1], turns[1:]), tokenizer))
    return found


@pytest.fixture(scope="module", params=["llama", "own"])
def tuned(
    request: pytest.FixtureRequest, bases: dict[str, Base], tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # fmt: skip
    """A model that answers some rows and not others."""
    base = bases[request.param]
    train = rows(tokenizer, 160)
    settings = Settings("sft", "loss", epochs=6, batch=16)
    out = tmp_path_factory.mktemp("tuned")
    return tuner.tune(base.model(), tokenizer, train, tuner.dataset(train), settings,
                      lr=1e-2, seed=0, context=64, out=out).model  # fmt: skip


def test_right_is_what_greedy_decoding_gives(tuned: Any, tokenizer: Any) -> None:
    held = [found.answer for found in rows(tokenizer, 60)]
    fast = [one.right for one in measure.scored(tuned, held)]
    slow = []
    for text in held:
        prompt = torch.tensor([text.ids[: text.last_turn]])
        made = tuned.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
            eos_token_id=0, max_new_tokens=len(text.ids) - text.last_turn,
        )  # fmt: skip
        slow.append(made[0].tolist() == text.ids)
    assert fast == slow
    assert 0 < sum(fast) < len(fast)  # it is right at some and wrong at others


def test_loss_is_the_decoders(tuned: Any, bases: dict[str, Base], tokenizer: Any) -> None:
    """Summed over the answer's tokens, by our own decoder with the same weights."""
    shape = bases["llama" if type(tuned).__name__.startswith("Llama") else "own"].shape
    ours = Decoder.loaded(shape, tuned.state_dict())
    for found in rows(tokenizer, 5):
        text = found.answer
        (one,) = measure.scored(tuned, [text])
        ids = torch.tensor([text.ids])
        logits = ours(ids[:, :-1])[0].log_softmax(-1)
        picked = logits[torch.arange(len(text.ids) - 1), ids[0, 1:]]
        expected = -float(picked[torch.tensor(text.learnt[1:]) == 1].sum().detach())
        assert one.nats == pytest.approx(expected, abs=1e-4)
        assert one.tokens == sum(text.learnt)


def test_a_rows_loss_does_not_depend_on_its_batch(
    tuned: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [found.answer for found in rows(tokenizer, 30)]
    together = measure.scored(tuned, held)
    monkeypatch.setattr(measure, "_LOGITS", 1)  # one text at a time
    alone = measure.scored(tuned, held)
    assert [one.right for one in alone] == [one.right for one in together]
    for a, b in zip(alone, together, strict=True):
        assert a.nats == pytest.approx(b.nats, abs=1e-4)


def test_text_loss_is_the_mean_of_the_windows(bases: dict[str, Base]) -> None:
    base = bases["llama"]
    ours = Decoder.loaded(*read_directory(base.path))
    windows = torch.randint(0, 280, (3, 33), generator=torch.Generator().manual_seed(0))
    expected = float(ours.loss(windows[:, :-1], windows[:, 1:]).detach())
    assert measure.text_loss(base.model(), windows) == pytest.approx(expected, abs=1e-5)


# --- preferences ----------------------------------------------------------------------------------


def pairs(tokenizer: Any, count: int) -> list[EncodedRow]:
    found = []
    for n, pair in enumerate(preferences(count)):
        turns = tuple(pair[name][0] for name in ("prompt", "chosen", "rejected"))
        found.append(encode(Row("x", f"{n:016x}", turns[:1], turns[1:2], turns[2:]), tokenizer))
    return found


def test_a_base_prefers_nothing_over_itself(bases: dict[str, Base], tokenizer: Any) -> None:
    model, held = bases["llama"].model(), pairs(tokenizer, 4)
    found = measure.measured(model, held, measure.log_ratios(model, held), 0.1)
    assert measure.mean_loss(found) == pytest.approx(log(2), abs=1e-6)


def test_the_loss_of_a_preference(bases: dict[str, Base], tokenizer: Any) -> None:
    """log(1 + e^(−β·(ratio − reference))), arXiv:2305.18290, equation 7."""
    model, held = bases["own"].model(), pairs(tokenizer, 2)
    ratios = measure.log_ratios(model, held)
    found = measure.measured(model, held, [ratios[0] - 3.0, ratios[1] + 3.0], 0.5)
    assert found[0].loss == pytest.approx(log(1 + exp(-1.5)), abs=1e-5)
    assert found[1].loss == pytest.approx(log(1 + exp(1.5)), abs=1e-5)
    assert [one.correct for one in found] == [True, False]


@pytest.mark.parametrize("shape", ["llama", "own"])
def test_dpo_lowers_its_loss(
    shape: str, bases: dict[str, Base], tokenizer: Any, tmp_path: Any
) -> None:
    base, train = bases[shape], pairs(tokenizer, 32)
    before = measure.log_ratios(base.model(), train)
    settings = Settings("dpo", "accuracy", epochs=2, batch=8, warmup=0)
    done = tuner.tune(base.model(), tokenizer, train, tuner.dataset(train), settings, lr=1e-3,
                      seed=0, context=64, out=tmp_path, reference=base.model())  # fmt: skip
    found = measure.measured(done.model, train, before, 0.1)
    loss = measure.mean_loss(found)
    assert loss is not None
    assert loss < 0.9 * log(2)
    assert measure.score(found) == 1.0
