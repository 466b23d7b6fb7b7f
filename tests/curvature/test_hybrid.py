"""Two processes that share or copy the weights give the numbers of one: sums, noise, traces."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import batches

from anytrain.curvature.critical import noise
from anytrain.curvature.hvp import Difference
from anytrain.curvature.objective import Batch, Objective
from anytrain.curvature.trace import hutchinson
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape
from ranks import Ranks

# odd rows: the two parts of a tensor differ in length
SHAPE = DecoderShape(layers=2, width=20, heads=2, vocab=11, mlp=13, tied=True)
STEP = 3e-3  # of differences, ‖εv‖/‖θ‖

CODE = """
import json, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path[:0] = sys.argv[2:]
import test_hybrid as here
from anytrain.models.decoder import Decoder

dist.init_process_group("gloo")
rank = dist.get_rank()
sizes = tuple(json.loads(sys.argv[1]))
names = ("replicas", "shards")[-len(sizes):]
mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
whole = here.model()
model = Decoder(here.SHAPE)
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
model.load(dict(whole.named_parameters()))
found = here.measured(model, here.parts()[rank::2])
print(json.dumps(found))
dist.destroy_process_group()
"""


def model() -> Decoder:
    made = Decoder.seeded(SHAPE, 0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def parts() -> list[Batch]:
    """Four batches with as many targets in each, so that two and two weigh the same."""
    made = batches(4, SHAPE.tokens)
    made[-1].targets[0, :4] = made[0].targets[0, :4]
    return made


def measured(decoder: Decoder, mine: list[Batch]) -> dict[str, Any]:
    """Everything that a process finds, on the batches that are its own."""
    objective = Objective.of_decoder(decoder, mine)
    before = objective.weights()
    trace = hutchinson(Difference(objective, step=STEP), 3)
    (rise,) = noise(objective, (0.05,), 3)
    return {
        "value": objective.value(),
        "samples": list(trace.samples),
        "noise": list(rise.samples),
        "norm": objective.norm(objective.probe(0)),
        "restored": torch.equal(objective.weights(), before),
    }


@pytest.mark.parametrize("sizes", [(2,), (2, 1), (1, 2)], ids=["shards", "replicas", "hybrid"])
def test_two_processes_are_one(sizes: tuple[int, ...]) -> None:
    """Probes, noise and sums do not depend on how the weights are cut."""
    alone = measured(model(), parts())
    here = Path(__file__).parent
    ranks = Ranks(2, json.dumps(sizes), here, here.parent, code=CODE)
    assert ranks.wait() == [0, 0], "\n".join(ranks.err)
    first, second = (json.loads(out.splitlines()[-1]) for out in ranks.out)
    assert first == second
    assert first["restored"]
    assert first["norm"] == pytest.approx(sum(p.numel() for p in model().parameters()) ** 0.5)
    assert first["value"] == pytest.approx(alone["value"], rel=1e-6)
    assert first["samples"] == pytest.approx(alone["samples"], rel=1e-3)
    assert first["noise"] == pytest.approx(alone["noise"], rel=1e-3)
