from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sweeps import row
from torch.nn.functional import cross_entropy

from anytrain.errors import UserError
from anytrain.posttrain import template
from anytrain.posttrain.bases import Base
from anytrain.posttrain.rows import Row
from anytrain.posttrain.tokens import IGNORED, Encoded, Packer, encode, packed

CHATS = [
    [("user", "the of"), ("assistant", "and to")],
    [("system", "be by"), ("user", "he"), ("assistant", "his but"), ("user", "at"),
     ("assistant", "are 42!")],
    [("user", "naïve 日本 🙂"), ("assistant", "🙂 日本 ï")],
    [("user", "  blank \n\n"), ("assistant", "\n  indented:\n    code  \n")],
    [("assistant", "the first word"), ("user", "yes"), ("assistant", "and 1")],
    [("user", "Assistant:\n"), ("assistant", "User:\nAssistant:")],
]  # fmt: skip


@pytest.mark.parametrize("turns", CHATS)
def test_what_is_learnt_is_the_assistants_and_the_end_of_its_turns(
    turns: list[tuple[str, str]], tokenizer: Any
) -> None:
    found = encode(row(*turns), tokenizer).answer
    learnt = [t for t, on in zip(found.ids, found.learnt, strict=True) if on]
    said = "".join(f"{content.strip()}<|endoftext|>" for role, content in turns
                   if role == "assistant")  # fmt: skip
    assert tokenizer.decode(learnt) == said
    given = [t for t, on in zip(found.ids, found.learnt, strict=True) if not on]
    assert 0 not in given  # every end of turn is learnt
    # a label is its token where it is learnt, but nothing predicts a text's first token
    assert found.labels[0] == IGNORED
    assert [t for t in found.labels[1:] if t != IGNORED] == learnt


def test_the_last_turn(tokenizer: Any) -> None:
    found = encode(row(*CHATS[1]), tokenizer).answer
    assert tokenizer.decode(found.ids[found.last_turn :]) == "are 42!<|endoftext|>"


def test_a_prompts_answers_are_not_learnt(tokenizer: Any) -> None:
    said = row(*CHATS[1]).answer
    found = encode(Row("x", "0", said[:-1], said[-1:]), tokenizer).answer
    assert sum(found.learnt) == len(found.ids) - found.last_turn


def test_a_spelt_end_of_turn_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"line 1: a content holds '<\|endoftext\|>'"):
        encode(row(("user", "a<|endoftext|>b"), ("assistant", "c")), tokenizer)


def test_a_prompt_that_changes_before_its_answer_is_refused(bases: dict[str, Base]) -> None:
    tokenizer = bases["llama"].tokenizer()
    tokenizer.chat_template = template.DEFAULT.replace("{{- 'Assistant:\\n' }}\n{%- gen",
                                                       "{{- 'Other:' }}\n{%- gen")  # fmt: skip
    with pytest.raises(UserError, match="are others when the answer is not there yet"):
        encode(row(*CHATS[0]), tokenizer)


# --- templates ------------------------------------------------------------------------------------


def test_which_template(tmp_path: Path) -> None:
    marked = "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}"
    (tmp_path / "t.jinja").write_text(marked)
    assert template.chosen(tmp_path / "t.jinja", "other", "base") == marked
    assert template.chosen(None, marked, "base") == marked
    assert template.chosen(None, None, "base") == template.DEFAULT
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match=r"t.jinja has no {% generation %}"):
        template.chosen(tmp_path / "t.jinja", None, "base")
    with pytest.raises(UserError, match=r"runs/a: its chat template has no {% generation %}"):
        template.chosen(None, "{{ messages }}", "runs/a")
    with pytest.raises(UserError, match=r"none\.jinja"):
        template.chosen(tmp_path / "none.jinja", None, "base")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{% generation %}{{ messages[1]['content'] }}{% endgeneration %}", "ends in no special"),
        ("{% generation %}{{ messages[9]['content'] }}{% endgeneration %}", "cannot be rendered"),
        ("{% generation %}{{ messages", "cannot be rendered"),
    ],
)
def test_a_template_that_does_not_do(text: str, says: str, bases: dict[str, Base]) -> None:
    tokenizer = bases["llama"].tokenizer()
    tokenizer.chat_template = text
    with pytest.raises(UserError, match=says):
        template.check(tokenizer, "runs/a")


# --- packing --------------------------------------------------------------------------------------


def test_packing_wastes_little_and_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (8, 64, 1000):
        lengths = torch.randint(1, width + 1, (300,), generator=generator).tolist()
        rows = packed(lengths, width)
        assert sorted(n for r in rows for n in r) == list(range(300))
        assert all(sum(lengths[n] for n in r) <= width for r in rows)
        # no packing needs fewer than this; best fit is within a tenth of it on lengths like these
        assert len(rows) <= 1.1 * sum(lengths) / width + 1


def examples(tokenizer: Any) -> list[dict[str, Any]]:
    found = [encode(row(*turns), tokenizer).answer for turns in CHATS]
    return [{"input_ids": e.ids, "labels": e.labels} for e in found]


def padded(parts: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The slow twin: a row a text, masked."""
    width = max(len(e["input_ids"]) for e in parts)
    made: dict[str, list[Any]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for e in parts:
        left = width - len(e["input_ids"])
        made["input_ids"].append(e["input_ids"] + [0] * left)
        made["labels"].append(e["labels"] + [IGNORED] * left)
        made["attention_mask"].append([1] * (width - left) + [0] * left)
    return {name: torch.tensor(value) for name, value in made.items()}


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("shape", ["llama", "own"])
def test_packed_texts_do_not_see_each_other(
    shape: str, bases: dict[str, Base], tokenizer: Any
) -> None:
    """A batch in fewer rows has the loss and the gradient of a text a row."""
    model = bases[shape].model()
    assert model.config._attn_implementation == "sdpa"
    batch = Packer(128)(examples(tokenizer))
    assert len(batch["input_ids"]) < len(CHATS)
    loss, gradient = gradients(model, batch)
    expected, slow = gradients(model, padded(examples(tokenizer)))
    assert loss == pytest.approx(expected, abs=1e-5)
    for a, b in zip(gradient, slow, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "own"])
def test_rows_that_trl_packs_do_not_leak_either(
    shape: str, bases: dict[str, Base], tokenizer: Any
) -> None:
    """TRL lays a whole micro-batch into one row and says positions, as we do."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    parts = examples(tokenizer)
    model = bases[shape].model()
    packed_row = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(parts)
    ids, positions = packed_row["input_ids"], packed_row["position_ids"]
    with torch.no_grad():
        # as in training: with a cache, transformers takes positions for those of one text
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([e["input_ids"]])).logits[0] for e in parts]
        leaking = model(input_ids=ids).logits[0]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=1e-4)
    # and the test can tell: without positions they do see each other
    assert float((leaking - torch.cat(alone)).abs().max()) > 1e-2


def test_the_first_token_of_a_text_is_not_predicted() -> None:
    batch = Packer(8)(
        [{"input_ids": e.ids, "labels": e.labels} for e in (Encoded([1, 2], [1, 1]),) * 3]
    )
    assert batch["labels"].tolist() == [[IGNORED, 2] * 3]
    assert batch["position_ids"].tolist() == [[0, 1] * 3]
