"""Curvature of a model that FSDP2 has cut over two real processes, against one process's."""

import json

import pytest

from ranks import Ranks

# 13 is odd: a row more in one process than in the other
CODE = """
import json, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from anytrain.curvature.hvp import Difference
from anytrain.curvature.objective import Batch, Objective
from anytrain.curvature.trace import hutchinson
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

rank, size = int(sys.argv[1]), int(sys.argv[2])
if size > 1:
    import os
    rank = int(os.environ["RANK"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
    dist.init_process_group("gloo", store=dist.PrefixStore("curvature", store), rank=rank,
                            world_size=size)
rows = torch.randint(0, 13, (4, 9), generator=torch.Generator().manual_seed(3))
own = rows[rank :: size]
shape = DecoderShape(layers=2, width=12, heads=2, vocab=13, mlp=20)
model = Decoder.seeded(shape, 0)
if size > 1:
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
objective = Objective.of_decoder(model, [Batch(own[:, :-1], own[:, 1:])])
before = objective.weights()
value = objective.value()
trace = hutchinson(Difference(objective), 4)
moved = []
with objective.displaced() as (_, put):
    for scale in (1.1, 0.9):
        put(before * scale)
        moved.append(objective.value())
found = {"value": value, "samples": trace.samples, "moved": moved, "after": objective.value(),
         "same": torch.equal(before, objective.weights()), "dim": objective.dim,
         "norm": objective.norm(objective.probe(0))}
print(json.dumps(found))
if size > 1:
    dist.destroy_process_group()
"""


def test_two_processes_find_what_one_does() -> None:
    """Traces by differences, and the loss itself, also where weights moved between two of them."""
    one = Ranks(1, 0, 1, code=CODE)
    two = Ranks(2, 0, 2, code=CODE)
    for ranks in (one, two):
        assert set(ranks.wait()) == {0}, "\n".join(ranks.err)
    (alone,) = (json.loads(out) for out in one.out)
    for found in (json.loads(out) for out in two.out):
        assert found["dim"] == alone["dim"]
        assert found["norm"] == pytest.approx(alone["norm"])  # the same probe in parts
        assert found["value"] == pytest.approx(alone["value"], rel=1e-5)
        assert found["moved"] == pytest.approx(alone["moved"], rel=1e-5)
        assert found["after"] == found["value"] != found["moved"][0]
        assert found["same"]
        assert found["samples"] == pytest.approx(alone["samples"], rel=5e-3)
