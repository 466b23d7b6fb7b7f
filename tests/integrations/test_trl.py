"""The real SFTTrainer: TRL's own metrics of every average, resuming, streams without an end."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from hf_tiny import RULES, SCHEDULE, VOCAB, Rows, arguments, model, rates, same, weights
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from anytrain import schedules
from anytrain.integrations.transformers import AnytimeTrainerMixin


class AnytimeSFT(AnytimeTrainerMixin, SFTTrainer):
    pass


def tokenizer() -> Any:
    words = {"<end>": 0, "<pad>": 1, **{f"w{n}": n for n in range(2, VOCAB)}}
    made = Tokenizer(WordLevel(words, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<pad>")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    found = Rows(count, start)
    return [{k: t.tolist() for k, t in found[index].items()} for index in range(count)]


def trainer(out: Path, steps: int, *, data: Any = None, seed: int = 0, **settings: Any) -> Any:
    plain = arguments(out).to_dict()
    names = ("output_dir", "per_device_train_batch_size", "use_cpu", "seed", "disable_tqdm",
             "save_steps", "logging_steps", "dataloader_pin_memory")  # fmt: skip
    ours = {name: plain[name] for name in names} | {"report_to": [], "max_length": None}
    args = SFTConfig(**{**ours, "max_steps": steps, "gradient_checkpointing": False, **settings})
    return AnytimeSFT(
        model(seed), args, train_dataset=data or Dataset.from_list(rows(24)),
        eval_dataset=Dataset.from_list(rows(8, 100)), processing_class=tokenizer(),
        schedule=SCHEDULE, averages=RULES,
    )  # fmt: skip


def test_a_fine_tuning_that_is_extended_is_one_that_never_stopped(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "straight", 10)
    straight.train()
    trainer(tmp_path / "parts", 5).train()
    later = trainer(tmp_path / "parts", 10, seed=1)
    later.train(resume_from_checkpoint=True)
    assert same(weights(later.model), weights(straight.model))
    for name in RULES:
        one, other = (made.anytime.averages.tensors[name] for made in (later, straight))
        assert same(one, other)
    expected = schedules.schedule(SCHEDULE)
    assert rates(later) == [expected(t) for t in range(1, 11)]


def test_trls_own_metrics_say_whose_they_are(tmp_path: Path) -> None:
    made = trainer(tmp_path, 6, save_strategy="no", eval_strategy="steps", eval_steps=6)
    made.train()
    found = made.evaluate()
    gathered = {"loss", "entropy", "mean_token_accuracy"}
    for prefix in ("eval", "eval_ema2", "eval_uniform"):
        assert {f"{prefix}_{key}" for key in gathered} <= found.keys()
    assert found["eval_entropy"] != found["eval_ema2_entropy"]
    with made.applied("ema2"):
        assert made.evaluate()["eval_entropy"] == found["eval_ema2_entropy"]
    for record in made.state.log_history:  # what a logger is given is named as well
        if "eval_ema2_loss" in record:
            assert "eval_entropy" not in record
            assert record["eval_ema2_entropy"] == found["eval_ema2_entropy"]


def test_a_stream_needs_no_number_of_steps(tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(rows, gen_kwargs={"count": 12})
    made = trainer(tmp_path, -1, data=stream)
    made.train()
    assert made.state.global_step == 6
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        SFTTrainer(model(), SFTConfig(str(tmp_path), use_cpu=True, report_to=[]),
                   train_dataset=stream, processing_class=tokenizer())  # fmt: skip
