"""What each of two processes does in test_transformers_ranks.py: train, resume, compare."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from hf_tiny import RULES, SCHEDULE, Rows, arguments, model
from torch import Tensor
from torch.distributed.tensor import DTensor

from anytrain.averaging import canonical_tensors
from anytrain.integrations.transformers import AnytimeTrainer

FSDP2 = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
}


def trainer(out: Path, steps: int, kind: str, seed: int = 0) -> Any:
    settings: dict[str, Any] = {"ddp_backend": "gloo", "max_steps": steps}
    if kind != "ddp":
        state = "FULL_STATE_DICT" if kind == "fsdp-full" else "SHARDED_STATE_DICT"
        settings |= {"fsdp": True, "fsdp_config": {**FSDP2, "state_dict_type": state}}
    args = arguments(out, eval_strategy="steps", eval_steps=5, **settings)
    if kind != "ddp":
        # accelerate shards on accelerators alone, and takes processes on CPUs for DDP's
        assert args.device.type == "cpu"
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return AnytimeTrainer(
        model(seed), args, train_dataset=Rows(48), eval_dataset=Rows(8, 100),
        schedule=SCHEDULE, averages=RULES,
    )  # fmt: skip


def parts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What this process has of each."""
    return {
        name: (t.to_local() if isinstance(t, DTensor) else t).detach().clone()
        for name, t in tensors.items()
    }


def main(out: Path, kind: str) -> None:
    straight = trainer(out / "straight", 10, kind)
    straight.train()
    trainer(out / "parts", 5, kind).train()
    later = trainer(out / "parts", 10, kind, seed=1)
    later.train(resume_from_checkpoint=str(out / "parts" / "checkpoint-5"))
    found: dict[str, Any] = {"t": later.anytime.averages.t, "ranks": later.args.world_size}
    one, other = (parts(canonical_tensors(made.model)) for made in (straight, later))
    found["weights"] = all(torch.equal(one[name], other[name]) for name in one)
    for name in RULES:
        one, other = (made.anytime.averages.tensors[name] for made in (straight, later))
        found[name] = all(torch.equal(one[key], other[key]) for key in one)
    live = canonical_tensors(later.model)
    found["sharded"] = any(isinstance(tensor, DTensor) for tensor in live.values())
    found["losses"] = {k: v for k, v in later.evaluate().items() if k.endswith("_loss")}
    if kind != "fsdp":
        later.save_model(str(out / "released"), weights="ema2")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
