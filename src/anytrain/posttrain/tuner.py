"""One fine-tuning: TRL's trainer on rows that are tokens already, from the base's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

from anytrain.errors import UserError
from anytrain.posttrain.quiet import quiet
from anytrain.posttrain.settings import Settings
from anytrain.posttrain.tokens import EncodedRow, Packer

_TOKENS = 16_384  # of a micro-batch where none is asked for


@dataclass(frozen=True)
class Tuned:
    """A model after its fine-tuning."""

    model: Any
    steps: int
    tokens: int  # that were read, all epochs; for DPO of both answers
    train_loss: float | None  # mean over the run as TRL has it; None where it is not finite
    seconds: float  # of training alone


def micro_batch(settings: Settings, longest: int, processes: int) -> int:
    """Texts of one process at a time: a divisor of its share, of 16,384 tokens at most.

    Raises UserError where the batch cannot be shared out evenly.
    """
    if settings.batch % processes:
        raise UserError(
            f"--batch {settings.batch} on {processes} processes; a multiple of {processes} is valid"
        )
    share = settings.batch // processes
    if settings.micro_batch is not None:
        if share % settings.micro_batch:
            raise UserError(
                f"--micro-batch {settings.micro_batch}: a divisor of {share}, what each of "
                f"{processes} processes has of --batch {settings.batch}, is valid"
            )
        return settings.micro_batch
    fit = max(1, _TOKENS // longest)
    return max(n for n in range(1, share + 1) if share % n == 0 and n <= fit)


def config(settings: Settings, rows: Sequence[EncodedRow], lr: float, seed: int, out: Path) -> Any:
    """TRL's own configuration of one point."""
    import torch
    from accelerate import PartialState
    from trl import DPOConfig, SFTConfig

    processes = PartialState().num_processes
    micro = micro_batch(settings, max(row.longest for row in rows), processes)
    cuda = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(out / ".trainer"),  # nothing is saved there
        "learning_rate": lr,
        "seed": seed,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch // processes // micro,
        "warmup_steps": settings.warmup_steps(len(rows)),
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": False,  # TRL's default is true
        "max_length": None,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "ddp_find_unused_parameters": False,  # every weight of a decoder is used
        "report_to": [],
        "disable_tqdm": True,
    }
    kind = SFTConfig if settings.method == "sft" else DPOConfig
    try:
        return kind(**ours | dict(settings.trl))
    except (TypeError, ValueError) as error:
        raise UserError(f"TRL refuses its settings {dict(settings.trl)}: {error}") from error


def dataset(rows: Sequence[EncodedRow]) -> Any:
    """Rows in the columns that TRL's trainers read from tokens."""
    from datasets import Dataset

    if rows[0].rejected is None:
        return Dataset.from_list(
            [{"input_ids": row.answer.ids, "labels": row.answer.labels} for row in rows]
        )
    found = []
    for row in rows:
        assert row.rejected is not None
        given, other = row.answer.learnt.index(1), row.rejected.learnt.index(1)
        found.append(
            {
                "prompt_ids": row.answer.ids[:given],
                "chosen_ids": row.answer.ids[given:],
                "rejected_ids": row.rejected.ids[other:],
            }
        )
    return Dataset.from_list(found)


def tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    data: Any,  # what `dataset` made of the rows
    settings: Settings,
    *,
    lr: float,
    seed: int,
    context: int,
    out: Path,
    reference: Any = None,  # for DPO: the base, another copy
) -> Tuned:
    """Train a model in place, for the epochs of the settings; `seed` orders the rows."""
    from transformers import PrinterCallback

    with quiet():
        args = config(settings, rows, lr, seed, out)
        trainer = _trainer(model, reference, tokenizer, data, args, settings, context)
        trainer.remove_callback(PrinterCallback)
        begun = perf_counter()
        result = trainer.train()
        seconds = perf_counter() - begun
    loss = float(result.training_loss)
    tokens = sum(len(r.answer.ids) + (len(r.rejected.ids) if r.rejected else 0) for r in rows)
    plain = trainer.accelerator.unwrap_model(trainer.model)
    return Tuned(
        plain,
        int(result.global_step),
        tokens * settings.epochs,
        loss if isfinite(loss) else None,
        seconds,
    )


def _trainer(
    model: Any,
    reference: Any,
    tokenizer: Any,
    data: Any,
    args: Any,
    settings: Settings,
    context: int,
) -> Any:
    from trl import DPOTrainer, SFTTrainer

    if settings.method == "sft":
        # its own collator of tokens pads; ours packs
        own = {"data_collator": Packer(context)} if settings.packing else {}
        return SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer, **own)

    class OfTokens(DPOTrainer):
        """TRL's, on rows that are tokens already: a sweep tokenises once, not at every point."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    return OfTokens(model, reference, args, train_dataset=data, processing_class=tokenizer)
