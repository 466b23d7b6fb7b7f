"""Averages that follow an optimizer in two real processes, replicated and sharded, beside one."""

import json
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from anytrain import AnytimeEma, Averages, InverseSqrt
from anytrain.integrations.torch import Scheduler, attach
from ranks import Ranks

pytestmark = pytest.mark.slow

# argv: how, folder, first step, last step. Each process has its half of every batch.
CODE = """
import json, sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch import nn
from anytrain import AnytimeEma, Averages, InverseSqrt
from anytrain.integrations.torch import Scheduler, attach

how, folder, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
bare = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))
if how == "ddp":
    model = nn.parallel.DistributedDataParallel(bare)
else:
    model = fully_shard(bare, mesh=init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
scheduler = Scheduler(optimizer, InverseSqrt(1e-2, warmup=4, offset=16))
averages = Averages(model, {"ema25": AnytimeEma(25), "ema5": AnytimeEma(5)})
attach(averages, optimizer)

def state():
    return {"model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer)}

def plain():  # a file each: what a process holds of the averages, and counters
    return f"{folder}/rank{rank}.pt"

if first > 1:
    there = state()
    dcp.load(there, checkpoint_id=f"{folder}/dcp")
    set_model_state_dict(model, there["model"])
    set_optimizer_state_dict(model, optimizer, optim_state_dict=there["optimizer"])
    saved = torch.load(plain(), weights_only=True)
    averages.load_state_dict(saved["averages"])
    scheduler.load_state_dict(saved["scheduler"])
for t in range(first, last + 1):
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(t))[2 * rank : 2 * rank + 2]
    (model(x) - x.flip(1)).square().mean().backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
dcp.save(state(), checkpoint_id=f"{folder}/dcp")
torch.save({"averages": averages.state_dict(), "scheduler": scheduler.state_dict()}, plain())
x = torch.randn(4, 5, generator=torch.Generator().manual_seed(99))
losses = {}
for name in ("raw", "ema25", "ema5", "raw"):
    with averages.applied(name), torch.no_grad():
        losses[name] = (model(x) - x.flip(1)).square().mean().item()
print(json.dumps({"t": averages.t, "rate": scheduler.get_last_lr()[0], "losses": losses}))
"""


def alone(last: int) -> tuple[dict[str, float], float]:
    """The losses of one process with whole batches, and its rate."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler = Scheduler(optimizer, InverseSqrt(1e-2, warmup=4, offset=16))
    averages = Averages(model, {"ema25": AnytimeEma(25), "ema5": AnytimeEma(5)})
    attach(averages, optimizer)
    for t in range(1, last + 1):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(t))
        (model(x) - x.flip(1)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(99))
    found = {}
    for name in ("raw", "ema25", "ema5"):
        with averages.applied(name), torch.no_grad():
            found[name] = (model(x) - x.flip(1)).square().mean().item()
    return found, scheduler.get_last_lr()[0]


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes(how: str, tmp_path: Path) -> None:
    """The losses of one process; stopped at 5 and gone on from files, the same to the bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, spans in ((whole, [(1, 12)]), (cut, [(1, 5), (6, 12)])):
        folder.mkdir()
        for first, last in spans:
            ranks = Ranks(2, how, folder, first, last, code=CODE)
            assert ranks.wait() == [0, 0], ranks.err
        said = [json.loads(out.splitlines()[-1]) for out in ranks.out]
        losses, rate = alone(12)
        for one in said:
            assert one["t"] == 12
            assert one["rate"] == rate
            assert one["losses"] == pytest.approx(losses, rel=1e-4)
    for rank in (0, 1):
        a, b = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for folder in (whole, cut))
        assert a["scheduler"] == b["scheduler"]
        for name, tensors in a["averages"]["tensors"].items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, b["averages"]["tensors"][name][key])
    for folder in (whole, cut):
        dcp_to_torch_save(folder / "dcp", folder / "raw.pt")
    raw = [torch.load(folder / "raw.pt", weights_only=True)["model"] for folder in (whole, cut)]
    assert all(torch.equal(raw[0][name], raw[1][name]) for name in raw[0])
