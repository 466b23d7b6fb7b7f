"""A Llama of 9,000 parameters and random rows for transformers' Trainer: a step takes 5 ms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

VOCAB = 64
SCHEDULE = "inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps"
RULES = {"ema2": "anytime_ema:f=2", "uniform": "uniform"}


def model(seed: int = 0, **settings: Any) -> Any:
    """With dropout, so that random numbers drawn out of turn are seen."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32, "attention_dropout": 0.1,
        "tie_word_embeddings": False,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**shape, **settings}))


class Rows(Dataset[dict[str, Tensor]]):
    """`count` rows of 12 tokens, each a line of steps of its own width."""

    def __init__(self, count: int, start: int = 0) -> None:
        self.count, self.start = count, start

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = self.start + index
        ids = (torch.arange(12) * (1 + number % 5) + number) % VOCAB
        return {"input_ids": ids, "labels": ids}


class Stream(IterableDataset[dict[str, Tensor]]):
    """The same rows with no length."""

    def __init__(self, count: int) -> None:
        self.rows = Rows(count)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.rows[index] for index in range(len(self.rows)))


def arguments(out: Path, **settings: Any) -> TrainingArguments:
    mine: dict[str, Any] = {
        "output_dir": str(out), "per_device_train_batch_size": 2, "use_cpu": True, "seed": 3,
        "per_device_eval_batch_size": 8, "report_to": [], "disable_tqdm": True, "save_steps": 5,
        "logging_steps": 1, "dataloader_pin_memory": False, "weight_decay": 0.1,
    }  # fmt: skip
    return TrainingArguments(**{**mine, **settings})


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def rates(trainer: Any) -> list[float]:
    """The rate of every step, as the Trainer logged it."""
    return [r["learning_rate"] for r in trainer.state.log_history if "learning_rate" in r]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
