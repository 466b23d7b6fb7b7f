"""Running averages of a Llama's weights: four at once, one against everybody's, AdamW with them.

python -m benchmarks.averages        (about two minutes; peers: pip install 'anytrain[bench]')
"""

import copy
from collections.abc import Callable
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import torch
from torch import Tensor, nn

from anytrain.averaging import Averages
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape
from anytrain.rules import AnytimeEma
from anytrain.training.adamw import AdamW
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

RHO = 0.0625  # of every average, so that each library's own decay gives the same numbers
SHAPES = {
    "50M": DecoderShape(layers=8, width=512, heads=8, mlp=1536, vocab=24_000),
    "150M": DecoderShape(layers=12, width=768, heads=12, mlp=2048, vocab=32_000),
}


def fixed(t: float, dt: float = 1.0) -> float:
    return RHO


def model(size: str) -> Decoder:
    return Decoder.seeded(SHAPES[size], seed=0)


def lerps(live: list[Tensor], averages: list[list[Tensor]]) -> None:
    """The usual way, at its best: one call an average."""
    for average in averages:
        torch._foreach_lerp_(average, live, RHO)


def stream(tensors: list[Tensor]) -> None:
    """Read and write every element in place: what memory allows."""
    torch._foreach_mul_(tensors, 1.0)


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference; raises where these are not the same averages."""
    off = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not off < 1e-6:
        raise AssertionError(f"averages differ by {off}")
    return off


def values(tensors: nn.Module | dict[str, Tensor]) -> list[Tensor]:
    if isinstance(tensors, nn.Module):
        return [p.detach() for p in tensors.parameters()]
    return list(tensors.values())


# --- rows -------------------------------------------------------------------------------------


def several(size: str, many: int = 4) -> Row:
    """K averages against K times `_foreach_lerp_`, and against their bytes at full bandwidth."""
    it = model(size)
    averages = Averages(it, {f"a{k}": AnytimeEma(25) for k in range(many)})
    averages.rules = dict.fromkeys(averages.rules, fixed)
    live = values(it)
    theirs = [[p.clone() for p in live] for _ in range(many)]
    jitter(it)
    found = interleaved(
        {
            "ours": averages.update,
            "four lerps": lambda: lerps(live, theirs),
            "stream": lambda: stream(live),
        },
        repeats=15,
    )
    off = max(apart(values(averages.tensors[f"a{k}"]), theirs[k]) for k in range(many))
    one = found["stream"] / 2  # reads or writes the weights once
    return Row(
        f"1  update of {many} averages, {size}",
        "ms",
        found["ours"] * 1e3,
        f"the same averages, {off:.0e} apart",
        {"four _foreach_lerp_": found["four lerps"] * 1e3},
        (1 + 2 * many) * one * 1e3,
        (Target("four _foreach_lerp_", "≤", 0.75), Target("floor", "≤", 1.2)),
    )


def jitter(it: nn.Module) -> None:
    """Weights that averages of them are not equal to."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in it.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02)


def timm_ema() -> Any:
    """timm's ModelEmaV3, from its own file: the package itself also asks for torchvision."""
    path = distribution("timm").locate_file("timm/utils/model_ema.py")
    spec = spec_from_file_location("timm_model_ema", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelEmaV3


def libraries(it: nn.Module) -> dict[str, tuple[Callable[[], Any], Callable[[], list[Tensor]]]]:
    """Name -> (one update, the average's tensors), each with the decay 1 − ρ."""
    from diffusers.training_utils import EMAModel
    from ema_pytorch import EMA
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    own = [p.detach().clone() for p in it.parameters()]
    swa = AveragedModel(it, multi_avg_fn=get_ema_multi_avg_fn(1 - RHO))
    swa.n_averaged.fill_(1)  # its first update is a copy
    timm = timm_ema()(it, decay=1 - RHO, foreach=True)
    ema = EMA(
        it, beta=1 - RHO, update_after_step=-1, update_every=1, use_foreach=True,
        min_value=1 - RHO, include_online_model=False,
    )  # fmt: skip
    ema.copy_params_from_model_to_ema()
    ema.initted.fill_(True)
    ema.step.fill_(10**9)
    diffusers = EMAModel(it.parameters(), decay=1 - RHO, min_decay=1 - RHO)
    diffusers.optimization_step = 10**6  # its first update is a copy
    return {
        "_foreach_lerp_": (lambda: lerps(values(it), [own]), lambda: own),
        "swa_utils.AveragedModel": (
            lambda: swa.update_parameters(it),
            lambda: values(swa.module),
        ),
        "timm ModelEmaV3": (lambda: timm.update(it), lambda: values(timm.module)),
        "ema-pytorch": (ema.update, lambda: values(ema.ema_model)),
        "diffusers EMAModel": (
            lambda: diffusers.step(it.parameters()),
            lambda: list(diffusers.shadow_params),
        ),
    }


def one(size: str) -> Row:
    """One average, as every library keeps it."""
    it = plain_module(size)
    averages = Averages(it, {"a": AnytimeEma(25)})
    averages.rules = {"a": fixed}
    peers = libraries(it)
    jitter(it)
    runs = {"ours": averages.update} | {name: update for name, (update, _) in peers.items()}
    runs["stream"] = lambda: stream(values(it))
    found = interleaved(runs, repeats=15)
    off = max(apart(values(averages.tensors["a"]), tensors()) for _, tensors in peers.values())
    return Row(
        f"2  update of 1 average, {size}",
        "ms",
        found["ours"] * 1e3,
        f"the same average in all, {off:.0e} apart",
        {name: found[name] * 1e3 for name in peers},
        1.5 * found["stream"] * 1e3,
        (
            Target("_foreach_lerp_", "≤", 1.05),
            Target("swa_utils.AveragedModel", "≤", 0.85),
            Target("timm ModelEmaV3", "≤", 1.0),
            Target("ema-pytorch", "≤", 1.0),
            Target("diffusers EMAModel", "≤", 0.15),
        ),
    )


def plain_module(size: str) -> nn.Module:
    """The model's tensors in a module that every library can copy."""
    it = nn.Module()
    for number, parameter in enumerate(model(size).parameters()):
        it.register_parameter(f"p{number}", nn.Parameter(parameter.detach()))
    return it


def with_adamw(size: str, many: int = 4) -> Row:
    """AdamW's step and K averages in one pass, against the fused step and then K lerps."""
    mine, other = plain_module(size), plain_module(size)
    jitter(mine)
    with torch.no_grad():
        for p, q in zip(mine.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p) * 1e-2
            q.copy_(p)
            q.grad = p.grad.clone()
    settings: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
    ours = AdamW(mine.parameters(), **settings, fused=True)
    theirs = torch.optim.AdamW(other.parameters(), **settings, fused=True)
    sets = [[p.detach().clone() for p in mine.parameters()] for _ in range(many)]
    copies, live = copy.deepcopy(sets), values(other)
    each = {p: [s[n] for s in sets] for n, p in enumerate(mine.parameters())}

    def peer() -> None:
        theirs.step()
        lerps(live, copies)

    found = interleaved(
        {
            "ours": lambda: ours.step_and_average(each, [RHO] * many),
            "peer": peer,
            "stream": lambda: stream(live),
        },
        repeats=15,
    )
    off = apart(values(mine), values(other))
    off = max(off, *(apart(a, b) for a, b in zip(sets, copies, strict=True)))
    floor = (7 + 2 * many) * found["stream"] / 2  # w, m, v and averages both ways, g once
    return Row(
        f"3  AdamW and {many} averages, {size}",
        "ms",
        found["ours"] * 1e3,
        f"weights and averages after the same steps, {off:.0e} apart",
        {"fused AdamW, four _foreach_lerp_": found["peer"] * 1e3},
        floor * 1e3,
        (Target("fused AdamW, four _foreach_lerp_", "≤", 0.80),),
    )


def rows() -> list[Row]:
    return [several("50M"), several("150M"), one("150M"), with_adamw("50M"), with_adamw("150M")]


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(rows(), cpu_name())
