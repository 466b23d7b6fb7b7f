"""torchtitan's own Trainer on CPUs: what the released package lacks for that, and a tiny Llama.

It takes a machine without accelerators for one with CUDA. Before its import PyTorch is told that
the accelerator is the CPU; what its monitor of memory asks of one, torch.cpu is given.
"""

# ruff: noqa: E402 (what is imported first decides)
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._utils
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import FSDPModule

torch._utils._get_available_device_type = lambda: "cpu"
torch.cpu.get_device_name = lambda *_: "cpu"
torch.cpu.get_device_properties = lambda *_: SimpleNamespace(total_memory=2**34)
torch.cpu.memory_stats = lambda *_: {}
torch.cpu.reset_peak_memory_stats = torch.cpu.empty_cache = lambda *_: None

from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.components.validate import Validator
from torchtitan.config import DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed import utils as distributed
from torchtitan.models.common import ScaledDotProductAttention
from torchtitan.models.llama3 import model_registry
from torchtitan.trainer import Trainer

distributed.set_pg_timeouts = lambda *_, **__: None  # a barrier on a device's number

from anytrain import rules
from anytrain.averaging import canonical_tensors
from anytrain.averaging.moves import local
from anytrain.integrations.torchtitan import anytime, average

SCHEDULE = "inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps"
RULES = {"ema2": "anytime_ema:f=2", "uniform": "uniform"}


class Lines(BaseDataLoader):
    """Rows of even steps, other ones on every process; where it is, is its state."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        infinite: bool = True

    def __init__(self, config: Any, *, dp_world_size: int, dp_rank: int, seq_len: int,
                 local_batch_size: int, **_: Any) -> None:  # fmt: skip
        self.shape = (local_batch_size, seq_len + 1)
        self.rank, self.world, self.at = dp_rank, dp_world_size, 0

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        while True:
            first = self.shape[0] * (self.at * self.world + self.rank)
            number = torch.arange(first, first + self.shape[0])[:, None]
            ids = (torch.arange(self.shape[1]) * (1 + number % 5) + number) % 64
            self.at += 1
            yield {"input": ids[:, :-1].contiguous()}, ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def config(out: Path, steps: int, **settings: Any) -> Any:
    """torchtitan's, with its own components."""
    spec = model_registry("debugmodel", attn_backend="flex")
    del spec.model.layers[2:]
    for layer in spec.model.layers:  # flex attention has no gradients on CPUs
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    training = TrainingConfig(
        local_batch_size=2, seq_len=16, steps=steps, disable_cuda_graphs=True,
        mixed_precision_param="float32",
    )  # fmt: skip
    kept = CheckpointManager.Config(enable=True, interval=5, **settings.pop("checkpoint", {}))
    return Trainer.Config(
        model_spec=spec, hf_assets_path=str(assets(out)), dump_folder=str(out), training=training,
        loss=CrossEntropyLoss.Config(global_vocab_size=2048), optimizer=default_adamw(lr=1e-2),
        dataloader=Lines.Config(), checkpoint=kept, metrics=MetricsProcessor.Config(log_freq=1),
        lr_scheduler=LRSchedulersContainer.Config(warmup_steps=2, decay_type="cosine"),
        validator=Validator.Config(enable=True, freq=5, steps=2, dataloader=Lines.Config()),
        debug=DebugConfig(seed=7), **settings,
        parallelism=ParallelismConfig(spmd_backend="partial_dtensor"),
    )  # fmt: skip


def assets(out: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        made = Tokenizer(WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
        (out / "tokenizer.json").write_text(made.to_str())
        words = {"bos_token": "<s>", "eos_token": "</s>"}
        (out / "tokenizer_config.json").write_text(json.dumps(words))
    return out


class Trained:
    """A training: its rates, what it logged of validations, its iterates and averages."""

    def __init__(self, made: Any) -> None:
        self.rates: list[float] = []
        self.losses: list[dict[str, float]] = []
        self.trainer = trainer = made.build()
        for module in trainer.model_parts[0].modules():
            if isinstance(
                module, FSDPModule
            ):  # gloo sums, and scales by no factor, not by 1 either
                module.set_force_sum_reduction_for_comms(True)
        self.iterates = [self.weights()]
        trainer.optimizers.register_step_pre_hook(lambda *_: self.rates.append(self.rate()))
        trainer.optimizers.register_step_post_hook(lambda *_: self.iterates.append(self.weights()))
        trainer.metrics_processor.logger.log = lambda metrics, step: self.losses.append(
            {k: v for k, v in metrics.items() if k.startswith("validation") and k.endswith("loss")}
        )
        trainer.train()
        trainer.close()

    def rate(self) -> float:
        return float(self.trainer.optimizers.optimizers[0].param_groups[0]["lr"])

    def weights(self) -> dict[str, Tensor]:
        found = canonical_tensors(self.trainer.model_parts[0])
        return {name: local(tensor).detach().clone() for name, tensor in found.items()}

    @property
    def averages(self) -> Any:
        return self.trainer.checkpointer.averages

    def by_hand(self, name: str) -> float:
        """How far an average is from the weighted sum of the iterates, at most."""
        mass = rules.weights(rules.rule(RULES[name]), len(self.iterates) - 1)
        found = self.averages.parts[0].tensors[name]
        return max(
            float((sum(m * w[key].double() for m, w in zip(mass, self.iterates, strict=True))
                   - tensor.double()).abs().max())
            for key, tensor in found.items()
        )  # fmt: skip


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def ours(out: Path, steps: int, schedule: str = SCHEDULE, **settings: Any) -> Any:
    return anytime(config(out, steps, **settings), schedule, RULES)


def resume(out: Path) -> dict[str, Any]:
    """Straight through, and stopped and extended: what is the same, and everything measured."""
    straight = Trained(ours(out / "straight", 10))
    Trained(ours(out / "parts", 5))
    later = Trained(ours(out / "parts", 10))
    validated: dict[str, float] = {}
    for losses in straight.losses:
        validated |= losses
    return {
        "rates": straight.rates, "later": later.rates, "t": later.averages.t,
        "by_hand": max(straight.by_hand(name) for name in RULES), "validated": validated,
        "weights": same(straight.weights(), later.weights()),
        "averages": [
            same(straight.averages.parts[0].tensors[name], later.averages.parts[0].tensors[name])
            for name in RULES
        ],
    }  # fmt: skip


def reshard(out: Path) -> dict[str, Any]:
    """A checkpoint of however many processes, loaded by this one."""
    made = ours(out / "parts", 10)
    made.checkpoint.load_step = 5
    trainer = made.build()
    trainer.checkpointer.load(step=5)
    found = {}
    for name in RULES:
        whole = average(out / "parts" / "checkpoint" / "step-5", name)
        found[name] = same(trainer.checkpointer.averages.parts[0].tensors[name], whole)
    return {"t": trainer.checkpointer.averages.t, **found}


def refusals(out: Path) -> dict[str, str]:
    """What is said of what cannot go on."""
    Trained(config(out / "theirs", 5, checkpoint={"last_save_model_only": False}))
    found = {}
    tries = {
        "no averages": ours(out / "theirs", 10),
        "horizon": ours(out / "new", 10, "cosine:horizon=8-steps,peak=1e-2"),
    }
    unknown = ours(out / "new", 10)
    unknown.validator.evaluated = ["ema3"]
    for name, made in {**tries, "unknown": unknown}.items():
        try:
            Trained(made)
        except ValueError as error:
            found[name] = str(error)
    begun = ours(out / "theirs", 10)
    begun.checkpoint.exclude_from_loading = ["anytrain"]
    after = Trained(begun)
    found["begun"] = f"{after.averages.t:g} steps, first rate {after.rates[0]:.6g}"
    other = ours(out / "theirs", 12, SCHEDULE.replace("1e-2", "2e-2"))
    try:
        Trained(other)
    except ValueError as error:
        found["jump"] = str(error)
    cooldown = f"cooldown:horizon=14-steps,start=10-steps,trunk=({SCHEDULE})"
    found["cooldown"] = str(Trained(ours(out / "theirs", 14, cooldown)).rates)
    return found


def peer(out: Path) -> dict[str, Any]:
    """torchtitan's own schedule, planned for 10 steps and extended to 20."""
    kept = {"last_save_model_only": False}
    planned = Trained(config(out / "theirs", 10, checkpoint=kept))
    later = Trained(config(out / "theirs", 20, checkpoint=kept))
    straight = Trained(config(out / "straight", 20, checkpoint=kept))
    defaults = Trained(config(out / "default", 5))
    refused = ""
    try:
        Trained(config(out / "default", 10))
    except CheckpointException as error:  # of which Exception is no base
        refused = str(error).strip().splitlines()[-1]
    return {
        "planned": planned.rates, "extended": later.rates, "refused": refused,
        "same": same(straight.weights(), later.weights()), "taken": len(defaults.rates),
    }  # fmt: skip


if __name__ == "__main__":
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    job, folder = sys.argv[1:]
    print(json.dumps(globals()[job](Path(folder))))
