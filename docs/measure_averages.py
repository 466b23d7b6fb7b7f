"""What PyTorch's and Lightning's own averages do where ours are meant to help: the tables of
in_pytorch.md and in_lightning.md.

    python docs/measure_averages.py       # writes them anew, at the versions that are installed

Every row is run, theirs and ours alike, on a tiny network; the tests run the same functions.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import __version__ as lightning_version
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from anytrain import AnytimeEma, Averages
from anytrain.integrations.lightning import AnytimeAverages
from anytrain.integrations.torch import attach

DOCS = Path(__file__).resolve().parent
MARK = "<!-- docs/measure_averages.py -->"
DECAY = 0.99
RULE = AnytimeEma(2)
Row = Callable[[bool], str]


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


def batch(step: int) -> Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(step))


def loss(model: nn.Module, step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = batch(step).to(dtype)
    return (model(x) - x.flip(1)).square().mean()


def train(model: nn.Module, steps: range, moved: Callable[[], Any], lr: float = 1e-2) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in steps:
        loss(model, step, next(model.parameters()).dtype).backward()
        optimizer.step()
        optimizer.zero_grad()
        moved()


def theirs(model: nn.Module, decay: float = DECAY) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A process group of one: the smallest on which a model can be sharded."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


# --- PyTorch --------------------------------------------------------------------------------------


def compiled(ours: bool) -> str:
    """The names of the average of a compiled model's first weight."""
    model = torch.compile(network(), backend="eager")
    if ours:
        return f"`{next(iter(Averages(model, {'ema': RULE}).tensors['ema']))}`"
    return f"`{list(theirs(model).state_dict())[1]}`"


def sharded(ours: bool) -> str:
    """Averages of an FSDP2 model, three steps."""
    with one_process():
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
        try:
            if ours:
                averages = Averages(model, {"ema": RULE})
                train(model, range(3), averages.update)
                return f"averaged, t = {averages.t:g}"
            average = theirs(model)
            train(model, range(3), lambda: average.update_parameters(model))
            return "averaged"
        except AssertionError as error:
            return f"AssertionError: {str(error).split('.')[0]}"


def rounded(ours: bool) -> str:
    """How far 300 moves of bf16 weights' average end from the same moves in float64."""
    model = network(torch.bfloat16)
    twin = {name: tensor.double() for name, tensor in model.state_dict().items()}
    begun = {name: tensor.clone() for name, tensor in twin.items()}
    averages, average, step = Averages(model, {"ema": RULE}), theirs(model), 0

    def moved() -> None:
        nonlocal step
        step += 1
        if ours:
            averages.update()
        else:
            average.update_parameters(model)
        rho = RULE(step) if ours else (1 - DECAY if step > 1 else 1.0)
        for name, tensor in model.state_dict().items():
            twin[name] += rho * (tensor.double() - twin[name])

    train(model, range(300), moved)
    found = averages.tensors["ema"] if ours else average.module.state_dict()
    off = max(float((found[name].double() - twin[name]).abs().max()) for name in twin)
    far = max(float((begun[name] - twin[name]).abs().max()) for name in twin)
    return f"{off / far:.0e} of the way".replace("e-0", "e-")


def resumed(ours: bool) -> str:
    """Stopped after 5 of 9 steps, states saved and loaded."""

    def both(model: nn.Module) -> Any:
        return Averages(model, {"ema": RULE}) if ours else theirs(model)

    def go(model: nn.Module, average: Any, steps: range) -> None:
        move = average.update if ours else lambda: average.update_parameters(model)
        train(model, steps, move)

    def tensors(average: Any) -> dict[str, Tensor]:
        return average.tensors["ema"] if ours else average.module.state_dict()

    straight, first, second = network(), network(), network()
    kept, early, late = both(straight), both(first), both(second)
    go(straight, kept, range(9))
    go(first, early, range(5))
    second.load_state_dict(first.state_dict())
    late.load_state_dict(early.state_dict())
    go(second, late, range(5, 9))
    a, b = tensors(kept), tensors(late)
    return "the bits" if all(torch.equal(a[name], b[name]) for name in a) else "other bits"


def skipped(ours: bool) -> str:
    """Moves of an average in a loop of 10 steps of which a GradScaler leaves out 2."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    averages, average = Averages(model, {"ema": RULE}), theirs(model)
    if ours:
        attach(averages, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(10):
        scaler.scale(loss(model, step) * (float("inf") if step < 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average.update_parameters(model)  # as its documentation's loop does
    return f"{averages.t if ours else int(average.n_averaged):g} moves, 8 updates"


# --- Lightning ------------------------------------------------------------------------------------


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.losses: list[float] = []

    def training_step(self, _: Any, index: int) -> Tensor:
        found = loss(self.net, self.trainer.global_step)
        self.losses.append(found.item())
        return found

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Sharded(Module):
    def configure_model(self) -> None:
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def fitted(module: Module, steps: int, *callbacks: Callback, **more: Any) -> Trainer:
    loader = DataLoader(TensorDataset(torch.zeros(64, 4)), batch_size=4)
    checkpoint = more.pop("ckpt_path", None)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, max_steps=steps, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[*callbacks], **more,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


def callback(ours: bool) -> Callback:
    return AnytimeAverages({"ema": RULE}) if ours else EMAWeightAveraging(decay=0.9)


def raw_at_the_end(ours: bool) -> str:
    """The module after 20 steps, beside one that trained without averages."""
    plain, module = Module(), Module()
    fitted(plain, 20)
    fitted(module, 20, callback(ours))
    same = torch.equal(plain.net[0].weight, module.net[0].weight)
    return "the raw weights" if same else "the average, written over the raw weights"


def extended(ours: bool) -> str:
    """Losses of steps 21 to 23 after a checkpoint of the end of 20."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "end.ckpt"
        fitted(Module(), 20, callback(ours)).save_checkpoint(path)
        later = Module()
        fitted(later, 23, callback(ours), ckpt_path=path)
    straight = Module()
    fitted(straight, 23)
    found = ", ".join(f"{value:.3f}" for value in later.losses)
    same = later.losses == straight.losses[20:]
    return f"{found}{'; as if never stopped' if same else ''}"


def sharded_module(ours: bool) -> str:
    """ModelParallelStrategy, FSDP2."""
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "LOCAL_RANK": "0",
                "NODE_RANK": "0", "WORLD_SIZE": "1"}  # fmt: skip
    before = {name: os.environ.get(name) for name in launched}
    os.environ.update(launched)
    try:
        strategy: Any = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
        fitted(Sharded(), 4, callback(ours), strategy=strategy)
    except AssertionError as error:
        return f"AssertionError: {str(error).split('.')[0]}"
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return "trained and averaged"


TORCH: dict[str, Row] = {
    "a compiled model's first average": compiled,
    "a model sharded by FSDP2": sharded,
    "bf16 weights, 300 moves, off from float64": rounded,
    "saved after 5 of 9 steps and gone on with": resumed,
    "10 steps of which a scaler leaves out 2": skipped,
}
LIGHTNING: dict[str, Row] = {
    "the module after `fit`": raw_at_the_end,
    "losses of the next three steps, gone on from its checkpoint": extended,
    "`ModelParallelStrategy`": sharded_module,
}
PAGES: dict[str, tuple[str, str, dict[str, Row]]] = {
    "in_pytorch.md": (f"`AveragedModel` of PyTorch {torch.__version__.split('+')[0]}",
                      "`Averages`, `attach`", TORCH),
    "in_lightning.md": (f"`EMAWeightAveraging` of Lightning {lightning_version}",
                        "`AnytimeAverages`", LIGHTNING),
}  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for page, (peer, mine, rows) in PAGES.items():
        lines = [f"| | {peer} | {mine} |", "|---|---|---|"]
        lines += [f"| {name} | {measure(False)} | {measure(True)} |"
                  for name, measure in rows.items()]  # fmt: skip
        path = DOCS / page
        before, _, rest = path.read_text(encoding="utf-8").partition(MARK)
        _, _, after = rest.partition(MARK)
        table = "\n".join(lines)
        path.write_text(f"{before}{MARK}\n{table}\n{MARK}{after}", encoding="utf-8")
        print(table, end="\n\n")


if __name__ == "__main__":
    main()
