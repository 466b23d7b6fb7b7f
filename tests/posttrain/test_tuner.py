from pathlib import Path
from typing import Any

import pytest
import torch
from test_measure import pairs, rows
from torch.nn.functional import cross_entropy

from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import read_directory
from anytrain.posttrain import tuner
from anytrain.posttrain.bases import Base
from anytrain.posttrain.settings import Settings
from anytrain.posttrain.tokens import IGNORED


@pytest.mark.parametrize("shape", ["llama", "own", "tied"])
def test_the_models_gradients_are_our_decoders(
    shape: str, bases: dict[str, Base], tokenizer: Any
) -> None:
    """As TRL's trainer makes them, with its fused head, on a packed batch."""
    from trl.trainer.utils import add_fused_lm_head

    from anytrain.posttrain.tokens import Packer

    base = bases[shape]
    theirs, ours = base.model(), Decoder.loaded(*read_directory(base.path))
    texts = [found.answer for found in rows(tokenizer, 12)]
    add_fused_lm_head(theirs)
    batch = Packer(64)([{"input_ids": t.ids, "labels": t.labels} for t in texts])
    assert len(batch["input_ids"]) < len(texts)
    count = int((batch["labels"] != IGNORED).sum())
    (-theirs(**batch, fused_lm_head=True).log_probs.sum() / count).backward()
    for text in texts:  # each for itself
        logits = ours(torch.tensor([text.ids]))[0, :-1]
        labels = torch.tensor(text.labels[1:])
        (cross_entropy(logits, labels, reduction="sum") / count).backward()
    expected = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-6, rtol=1e-4)


def tuned(base: Base, tokenizer: Any, out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    train = rows(tokenizer, 20)
    made = Settings("sft", "loss", **{"batch": 8, "warmup": 0, **settings})
    done = tuner.tune(base.model(), tokenizer, train, tuner.dataset(train), made,
                      lr=1e-3, seed=3, context=64, out=out)  # fmt: skip
    assert done.steps == 3  # two of 8 rows, one of 4
    return {name: tensor.clone() for name, tensor in done.model.state_dict().items()}


def test_packing_and_micro_batches_change_nothing(
    bases: dict[str, Base], tokenizer: Any, tmp_path: Path
) -> None:
    """Whatever a batch is laid into, its rows, their order and its mean are the same."""
    base = bases["llama"]
    expected = tuned(base, tokenizer, tmp_path)
    for other in ({"packing": False}, {"micro_batch": 2}):
        found = tuned(base, tokenizer, tmp_path, **other)
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], atol=5e-5, rtol=0)
    start = base.model().state_dict()  # and the tolerance is far below what training moved
    moved = max(float((expected[n] - start[n]).abs().max()) for n in expected)
    assert moved > 1e-3


def test_the_schedule_is_the_papers(bases: dict[str, Base], tokenizer: Any, tmp_path: Path) -> None:
    settings = Settings("sft", "loss", batch=2)
    train = rows(tokenizer, 40)
    args = tuner.config(settings, train, 1e-3, 0, tmp_path)
    assert (args.warmup_steps, args.lr_scheduler_type) == (2, "cosine")  # a tenth of 20 steps
    assert (args.weight_decay, args.max_grad_norm, args.num_train_epochs) == (0, 1, 1)
    assert settings.warmup_steps(10_000) == 100
    assert Settings("sft", "loss").batch == 128
    both = {"adam_beta2": 0.5, "weight_decay": 0.25}
    args = tuner.config(Settings("sft", "loss", trl=both), train, 1e-3, 0, tmp_path)
    assert (args.adam_beta2, args.weight_decay) == (0.5, 0.25)


def test_micro_batches() -> None:
    settings = Settings("sft", "loss", batch=96)
    assert tuner.micro_batch(settings, 64, 1) == 96
    assert tuner.micro_batch(settings, 1024, 1) == 16
    assert tuner.micro_batch(settings, 10**6, 2) == 1
    assert tuner.micro_batch(settings, 1000, 4) == 12  # 24 rows a process, 16 fit
    with pytest.raises(UserError, match="--batch 96 on 5 processes; a multiple of 5"):
        tuner.micro_batch(settings, 64, 5)
    with pytest.raises(UserError, match="--micro-batch 7: a divisor of 96"):
        tuner.micro_batch(Settings("sft", "loss", batch=96, micro_batch=7), 64, 1)


def test_columns_of_preferences(tokenizer: Any) -> None:
    (pair,) = pairs(tokenizer, 1)
    (made,) = tuner.dataset([pair])
    assert tokenizer.decode(made["chosen_ids"]) == "that is<|endoftext|>"
    assert tokenizer.decode(made["rejected_ids"]) == "not by he<|endoftext|>"
    assert tokenizer.decode(made["prompt_ids"]).endswith("Assistant:\n")


def test_nothing_is_sent_anywhere(
    bases: dict[str, Base], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL tells the Hub of every trainer that is made, unless it is asked not to."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry as telemetry

    sent: list[Any] = []
    monkeypatch.setattr(telemetry._TELEMETRY_QUEUE, "put", sent.append)
    monkeypatch.setattr(telemetry, "_start_telemetry_thread", lambda: None)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setattr(constants, name, False)
    monkeypatch.delenv("CI", raising=False)
    tuned(bases["llama"], tokenizer, tmp_path)
    assert sent == []
    assert not constants.HF_HUB_DISABLE_TELEMETRY  # nothing else's setting is changed
