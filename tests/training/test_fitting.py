"""`plan --memory`: which sharding fits, and whether a real process takes what was planned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anytrain.errors import UserError
from anytrain.training import fitting as fitting_module
from anytrain.training import recipes
from anytrain.training.fitting import byte_count, fitting, memory, ways
from anytrain.training.plan import optimizer_bytes, plan
from ranks import MODEL, Ranks
from ranks import recipe as written
from tiny import cli

BIG = recipes.load("wso-8b")


def test_one_device_is_the_plan() -> None:
    made = plan(BIG)
    same = memory(BIG, 1, made.micro_batch, False, optimizer_bytes(BIG))
    assert (same.total, same.gathered) == (made.memory, 0)


def test_the_first_way_that_fits_has_the_least_communication() -> None:
    optimizer = optimizer_bytes(BIG)
    fits, way = fitting(BIG, 64, 80 * 10**9, optimizer)
    assert fits
    assert way.total <= 0.9 * 80e9
    for other in ways(BIG, 64, optimizer):
        if other == way:
            break
        assert other.total > 0.9 * 80e9
    assert fitting(BIG, 64, 2 * way.total, optimizer)[1].shard <= way.shard


def test_what_does_not_fit_says_the_smallest() -> None:
    fits, way = fitting(BIG, 2, 10**9, optimizer_bytes(BIG))
    assert not fits
    assert way.total == min(each.total for each in ways(BIG, 2, optimizer_bytes(BIG)))
    assert (way.shard, way.recompute) == (2, True)


def test_offloaded_averages_take_no_room_on_the_device() -> None:
    offloaded = replace(BIG, parallel=replace(BIG.parallel, offload_averages=True))
    saved = memory(BIG, 8, 1, False, 0).total - memory(offloaded, 8, 1, False, 0).total
    assert saved == memory(BIG, 8, 1, False, 0).averages > 0


def test_settings_are_kept() -> None:
    asked = replace(BIG, parallel=replace(BIG.parallel, shard=4, recompute=True))
    assert {(way.shard, way.recompute) for way in ways(asked, 8, 0)} == {(4, True)}
    with pytest.raises(UserError, match="cannot be shared equally by 7 devices"):
        next(ways(BIG, 7, 0))


@pytest.mark.parametrize(
    ("text", "count"), [("80GB", 80e9), ("1.5 GiB", 1.5 * 2**30), ("9kB", 9e3)]
)
def test_sizes(text: str, count: float) -> None:
    assert byte_count(text, what="--memory") == count


@pytest.mark.parametrize("text", ["80", "GB", "-1GB", "0GB", "80 bytes"])
def test_what_is_no_size(text: str) -> None:
    said = cli("plan", "demo", "model.vocab=4096", f"--memory={text}")
    assert (said.code, said.out) == (2, "")
    assert "is no size; 80GB or 24GiB is valid" in said.err


def test_the_verb() -> None:
    said = cli("plan", "wso-8b", "--devices", 64, "--memory", "80GB")
    assert said.code == 0
    assert "in 80GB a device            fits with parallel.shard = " in said.out
    said = cli("plan", "wso-8b", "--devices", 2, "--memory", "16GB", "--json")
    found = json.loads(said.out)
    assert (said.code, found["fits"]) == (1, False)
    assert found["needs"] > 16e9


PEAK = """
import itertools, json, resource, sys, torch
from pathlib import Path
from anytrain.schedules import Constant
from anytrain.training import recipes, start
from anytrain.training.distributed import joined
from anytrain.training.loop import train
from anytrain.training.pretrain import build
torch.set_num_threads(1)

def steps(made, world):
    data = start.open_data(made)
    run = build(start.resolved(made, data), data, world=world)
    size = made.train.batch
    batches = (torch.from_numpy(data.batch(n * size, size)) for n in itertools.count())
    for _ in itertools.islice(train(run, batches, Constant(1e-3)), 3):
        pass
    return run

small, large = (recipes.load(path) for path in sys.argv[1:])
with joined() as world:
    steps(small, world)  # libraries and compiled code are in memory from here on
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    steps(large, world)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin at the parent's
    used = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
print(json.dumps(used))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_process_takes_what_is_planned(
    size: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 38M parameters, within a third for one process: a CPU's allocator keeps more than is asked
    for. Of two each takes less than that, but more than planned: gloo's buffers are not in it."""
    train = {"batch": 4, "context": 256, "micro_batch": 1}
    model = {"layers": 20, "width": 384, "heads": 6, "mlp": 1024, "vocab": 4096}
    paths = [
        written(tmp_path / "small.toml", corpus, train=train, model={**MODEL, "vocab": 4096}),
        written(tmp_path / "large.toml", corpus, train=train, model=model),
    ]
    ranks = Ranks(size, *paths, code=PEAK, timeout=300)
    assert ranks.wait() == [0] * size, ranks.err
    made = recipes.load(str(paths[1]))
    monkeypatch.setattr(fitting_module, "LOGITS", 2**20)  # at a time, on a CPU
    planned = memory(made, size, 1, False, optimizer_bytes(made)).total
    for used in map(json.loads, ranks.out):
        assert planned / 1.34 < used < planned * (1.34 if size == 1 else 2.0)
