"""transformers' Trainer without a horizon: train, stop, extend, evaluate and release an average.

    python examples/transformers_trainer.py --out /tmp/trainer

A Llama of 0.2M parameters learns the bytes of Python's own sources, for twice as long as was first
thought, in half a minute on one CPU thread.
"""

import argparse
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed

from anytrain import AnytimeEma, InverseSqrt
from anytrain.integrations.transformers import AnytimeTrainer

CONTEXT = 64  # bytes


class Sources(Dataset[dict[str, torch.Tensor]]):
    """Rows of a few modules' bytes."""

    def __init__(self, *modules: str) -> None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        data = b"".join((folder / f"{name}.py").read_bytes() for name in modules)
        count = len(data) // CONTEXT
        self.rows = torch.tensor(list(data[: count * CONTEXT])).view(count, CONTEXT)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def trainer(out: Path, steps: int) -> Any:
    set_seed(0)
    shape = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                        num_attention_heads=4, max_position_embeddings=CONTEXT)  # fmt: skip
    args = TrainingArguments(
        str(out), max_steps=steps, per_device_train_batch_size=16, per_device_eval_batch_size=64,
        eval_strategy="steps", eval_steps=80, save_steps=80, save_total_limit=2, logging_steps=80,
        use_cpu=True, dataloader_pin_memory=False, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    return AnytimeTrainer(
        LlamaForCausalLM(shape), args,
        train_dataset=Sources("argparse", "inspect", "typing"), eval_dataset=Sources("csv"),
        schedule=InverseSqrt(peak=5e-3, warmup=20, offset=100),
        averages={"ema6": AnytimeEma(6), "ema12": AnytimeEma(12)},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("trainer"))
    parser.add_argument("--steps", type=int, default=160, help="of the first sitting")
    options = parser.parse_args()

    trainer(options.out, options.steps).train()
    later = trainer(options.out, 2 * options.steps)  # more, after all
    later.train(resume_from_checkpoint=True)

    found = later.evaluate()
    losses = {name: found[f"eval_{name}loss"] for name in ("", "ema6_", "ema12_")}
    best = min(losses, key=lambda name: losses[name])
    weights = best.rstrip("_") or "raw"
    later.save_model(str(options.out / "released"), weights=weights)
    released = LlamaForCausalLM.from_pretrained(options.out / "released")
    row = Sources("csv")[0]["input_ids"][None]
    with torch.no_grad():
        loss = float(released.eval()(input_ids=row, labels=row).loss)
    listed = ", ".join(f"{name.rstrip('_') or 'raw'} {value:.4f}" for name, value in losses.items())
    print(f"after {later.state.global_step} steps, nats/byte: {listed}")
    print(f"released {weights}; its loss on the first row is {loss:.4f}")


if __name__ == "__main__":
    main()
