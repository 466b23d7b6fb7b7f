"""`Averages` beside models of every kind: names, types, wrappers, exits, states."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from anytrain.averaging import Averages, canonical_tensors, schedule_free, swapped
from anytrain.rules import AnytimeEma, Polynomial, Uniform, weights

MEAN = {"mean": Uniform()}


def moved(model: nn.Module, by: float = 1.0) -> None:
    """What an optimizer step does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in canonical_tensors(model).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_averages_of_16_bit_weights_are_fp32(dtype: torch.dtype) -> None:
    """A bf16 average rounds these updates to nothing: 256 + 1/256 is 256 in bf16."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, 256.0)
    averages = Averages(model, {"ema": AnytimeEma(0.5)})
    for _ in range(64):
        with torch.no_grad():
            model.weight.fill_(257.0 if dtype == torch.float16 else 258.0)
        averages.update()
    average = averages.tensors["ema"]["weight"]
    assert average.dtype == torch.float32
    target = float(model.weight.detach())
    start = weights(AnytimeEma(0.5), 64)[0]
    assert float(average) == pytest.approx(256 * start + target * (1 - start), rel=1e-6)
    assert float(average.to(dtype)) != float(average)
    with averages.applied("ema"):
        assert model.weight.dtype == dtype
        assert float(model.weight.detach()) == float(average.to(dtype))


def test_types_side_by_side() -> None:
    """fp64 stays fp64; one update takes models of several types."""
    model = nn.ModuleList([nn.Linear(2, 2, dtype=t) for t in (torch.float64, torch.bfloat16)])
    model.append(nn.Linear(2, 2))
    averages = Averages(model, MEAN)
    moved(model)
    averages.update()
    dtypes = {tensor.dtype for tensor in averages.tensors["mean"].values()}
    assert dtypes == {torch.float64, torch.float32}
    for name, live in canonical_tensors(model).items():
        assert torch.equal(averages.tensors["mean"][name], live.to(averages.tensors["mean"][name]))


def test_integer_and_boolean_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.tensor([True, False, True]))
    averages = Averages(model, {"half": Polynomial(0)})
    for count in (1, 2, 3):
        model(torch.randn(8, 3))
        model.mask.logical_not_()
        averages.update()
        kept = averages.tensors["half"]
        assert int(kept["num_batches_tracked"]) == count
        assert kept["num_batches_tracked"].dtype == torch.int64
        assert torch.equal(kept["mask"], model.mask)
    assert not torch.equal(averages.tensors["half"]["running_mean"], model.running_mean)


# --- which tensors ---------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding that is its head, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_parameter("absent", None)


def test_tied_weights_are_kept_once() -> None:
    model = Tied()
    averages = Averages(model, MEAN)
    assert set(averages.tensors["mean"]) == {"scale", "embed.weight"}
    raw = model.embed.weight.detach().clone()
    for _ in range(3):
        moved(model)
        averages.update()
    with averages.applied("mean"):
        assert model.head.weight is model.embed.weight
        assert torch.allclose(model.head.weight, raw + 2)  # updated once a step, not twice


def test_the_same_module_twice_is_kept_once() -> None:
    shared = nn.Linear(2, 2)
    assert set(canonical_tensors(nn.Sequential(shared, shared))) == {"0.weight", "0.bias"}


def test_frozen_parameters_stay_aligned() -> None:
    """Frozen before, between and after trained ones: every average is its own parameter's."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(4)))
    for number, layer in enumerate(model):
        nn.init.constant_(layer.weight, float(number))
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    averages = Averages(model, MEAN)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        (model[1].weight.sum() + model[3].weight.sum()).backward()
        optimizer.step()
        averages.update()
    means = {name: float(tensor.mean()) for name, tensor in averages.tensors["mean"].items()}
    assert means == {"0.weight": 0.0, "1.weight": -0.5, "2.weight": 2.0, "3.weight": 1.5}
    model[2].weight.requires_grad_(True)  # thawed later: nothing shifts
    moved(model)
    averages.update()
    assert float(averages.tensors["mean"]["2.weight"].mean()) == pytest.approx(2 + 1 / 3)


# --- wrappers --------------------------------------------------------------------------------


class ActivationCheckpointed(nn.Module):
    """Names as activation checkpointing and FSDP1 make them."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, inner)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "data parallel": nn.DataParallel,
    "parallel, compiled": lambda model: compiled(nn.DataParallel(model)),
    "compiled, parallel": lambda model: nn.DataParallel(compiled(model)),
    "fsdp": lambda model: ActivationCheckpointed(model, "_fsdp_wrapped_module"),
    "checkpointed": lambda model: ActivationCheckpointed(model, "_checkpoint_wrapped_module"),
}


def bare() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


@pytest.mark.parametrize("name", WRAPPERS)
def test_names_are_the_bare_models(name: str) -> None:
    """And the average follows: with `_orig_mod.` in the names it silently never did."""
    model = bare()
    wrapped = WRAPPERS[name](model)
    plain, averages = Averages(model, MEAN), Averages(wrapped, MEAN)
    assert set(averages.tensors["mean"]) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for _ in range(3):
        moved(model)
        plain.update()
        averages.update()
    assert same(plain.tensors["mean"], averages.tensors["mean"])
    raw = state(model)
    with averages.applied("mean"):
        assert not torch.equal(model[0].weight, raw["0.weight"])
    assert same(state(model), raw)
    Averages(bare(), MEAN).load_state_dict(averages.state_dict())  # and into an unwrapped one


def test_compiled_after_the_averages_began() -> None:
    model = bare()
    averages = Averages(model, MEAN)
    model[0] = compiled(model[0])
    model.compile(backend="eager")
    moved(model)
    averages.update()
    assert same(averages.tensors["mean"], state(model))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_distributed_data_parallel() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for wrap in (lambda m: m, compiled):
            model = bare()
            parallel = nn.parallel.DistributedDataParallel(wrap(model))
            averages = Averages(wrap(parallel), MEAN)
            moved(model)
            averages.update()
            assert same(averages.tensors["mean"], state(model))
    finally:
        torch.distributed.destroy_process_group()


# --- in the model and out again --------------------------------------------------------------


def begun() -> tuple[nn.Module, Averages]:
    model = bare()
    averages = Averages(model, {"mean": Uniform(), "ema25": AnytimeEma(25)})
    for _ in range(3):
        moved(model)
        averages.update()
    return model, averages


def test_applied_restores_on_every_exit() -> None:
    model, averages = begun()
    raw = state(model)
    with averages.applied("mean") as inside:
        assert inside is model
        for name, tensor in state(model).items():
            assert torch.equal(tensor, averages.tensors["mean"][name])
    assert same(state(model), raw)
    for error in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), averages.applied("ema25"):  # noqa: PT012
            moved(model)  # even what was written meanwhile
            raise error
        assert same(state(model), raw)
        assert averages.active is None
    averages.update()  # and all goes on


def test_parameters_keep_their_identity() -> None:
    """An optimizer holds on to the parameter objects: they are written, not exchanged."""
    model, averages = begun()
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    with averages.applied("mean"):
        assert [(id(p), p.data_ptr()) for p in model.parameters()] == before
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before


def test_what_is_an_error_while_an_average_is_in_the_model() -> None:
    _, averages = begun()
    kept = averages.state_dict()
    with averages.applied("mean"):
        for attempt in (
            averages.update,
            averages.state_dict,
            lambda: averages.add("late", Uniform()),
            lambda: averages.load_state_dict(kept),
            lambda: averages.applied("ema25").__enter__(),
            lambda: averages.applied("raw").__enter__(),
        ):
            with pytest.raises(RuntimeError, match="while the average 'mean' is in the model"):
                attempt()
    averages.state_dict()


def test_raw_changes_nothing() -> None:
    model, averages = begun()
    raw = state(model)
    with averages.applied("raw"):
        assert same(state(model), raw)


def test_an_unknown_average() -> None:
    _, averages = begun()
    with pytest.raises(ValueError, match=r"no average 'ema52' \(did you mean 'ema25'\?\)"):
        averages.applied("ema52").__enter__()
    with pytest.raises(ValueError, match=r"\(known: ema25, mean, raw\)"):
        averages.remove("zzz")
    assert averages.active is None


def test_swapped_restores_only_what_it_was_given() -> None:
    model = bare()
    raw = state(model)
    with swapped(model, {"0.bias": torch.full((3,), 7.0)}):
        assert model[0].bias.tolist() == [7.0] * 3
        assert torch.equal(model[0].weight, raw["0.weight"])
    assert same(state(model), raw)


# --- beginning, ending, saving ---------------------------------------------------------------


def test_they_begin_as_copies() -> None:
    model = bare()
    averages = Averages(model)
    assert list(averages.rules) == ["ema6.25", "ema12.5", "ema25", "ema50", "ema100"]
    for tensors in averages.tensors.values():
        assert same(tensors, state(model))
        assert all(t.data_ptr() != p.data_ptr() for t, p in zip(
            tensors.values(), canonical_tensors(model).values(), strict=True))  # fmt: skip
        assert not any(tensor.requires_grad for tensor in tensors.values())


def test_one_more_in_the_middle() -> None:
    model, averages = begun()
    averages.add("late", Uniform(start=3))
    assert averages.since == {"mean": 0.0, "ema25": 0.0, "late": 3.0}
    assert same(averages.tensors["late"], state(model))
    early = averages.tensors["mean"]["0.weight"].clone()
    moved(model)
    averages.update()
    assert same(averages.tensors["late"], state(model))  # the first iterate after its start
    assert not torch.equal(averages.tensors["mean"]["0.weight"], early)
    averages.remove("late")
    assert list(averages.rules) == list(averages.tensors) == list(averages.since) == [
        "mean", "ema25"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rule", "sentence"),
    [
        ("mean", Uniform(), "the name is taken"),
        ("raw", Uniform(), "the name is taken"),
        ("best", Uniform(), "the name is taken"),
        ("schedule_free", Uniform(), "the name is taken"),
        ("a:b", Uniform(), "without ':'"),
        ("a@b", Uniform(), "without ':'"),
        ("a/b", Uniform(), "without ':'"),
        ("", Uniform(), "without ':'"),
        ("x", "anytime_ema:f=25", "is not a rule; AnytimeEma"),
        ("x", 0.999, "is not a rule"),
    ],
)
def test_what_cannot_begin(name: str, rule: object, sentence: str) -> None:
    _, averages = begun()
    with pytest.raises(ValueError, match=sentence):
        averages.add(name, rule)  # type: ignore[arg-type]
    assert list(averages.tensors) == ["mean", "ema25"]


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan")])
def test_time_goes_on(dt: float) -> None:
    _, averages = begun()
    with pytest.raises(ValueError, match="above 0 steps"):
        averages.update(dt)
    assert averages.t == 3.0


def test_state_goes_there_and_back() -> None:
    """Into an average of other weights, through the tensors alone: then both go on the same."""
    model, averages = begun()
    saved = copy.deepcopy(averages.state_dict())
    other = bare()
    other.load_state_dict(model.state_dict())
    back = Averages(other, {"mean": Uniform(), "ema25": AnytimeEma(25)})
    tensors = {key: id(t) for key, t in back.tensors["mean"].items()}
    back.load_state_dict(saved)
    assert {key: id(t) for key, t in back.tensors["mean"].items()} == tensors  # in place
    assert (back.t, back.since) == (3.0, {"mean": 0.0, "ema25": 0.0})
    for each, both in ((model, averages), (other, back)):
        moved(each)
        both.update()
    assert all(same(averages.tensors[n], back.tensors[n]) for n in averages.rules)
    assert set(saved) == {"t", "since", "skipped", "kept", "rules", "tensors"}


def test_a_state_that_does_not_fit() -> None:
    model, averages = begun()
    saved = averages.state_dict()
    for rules in ({"mean": Uniform()}, {"mean": Uniform(), "ema25": AnytimeEma(12.5)}):
        with pytest.raises(ValueError, match="the state holds averages"):
            Averages(model, rules).load_state_dict(saved)
    other = Averages(nn.Linear(2, 3), {"mean": Uniform(), "ema25": AnytimeEma(25)})
    with pytest.raises(ValueError, match=r"not the same tensors, such as '0\.bias'"):
        other.load_state_dict(saved)
    wider = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    with pytest.raises((ValueError, RuntimeError)):
        Averages(wider, {"mean": Uniform(), "ema25": AnytimeEma(25)}).load_state_dict(saved)


def test_no_copy_of_the_model_is_made() -> None:
    """Deep copies fail under FSDP and cost a model: only tensors are copied."""

    class Uncopyable(nn.Linear):
        def __deepcopy__(self, memo: object) -> None:
            raise AssertionError("the model was copied")

        def __reduce_ex__(self, protocol: object) -> None:
            raise AssertionError("the model was pickled")

    model = Uncopyable(2, 2)
    averages = Averages(model, MEAN)
    averages.update()
    with averages.applied("mean"):
        averages.model(torch.ones(1, 2))
    averages.load_state_dict(averages.state_dict())


def test_an_update_costs_no_graph() -> None:
    model, averages = begun()
    loss = model(torch.ones(1, 2)).sum()
    averages.update()
    loss.backward()
    assert model[0].weight.grad is not None


def test_repr_names_rules() -> None:
    _, averages = begun()
    assert repr(averages) == "Averages(t=3, mean=Uniform(start=0.0), ema25=AnytimeEma(f=25))"


# --- Schedule-Free ---------------------------------------------------------------------------


def test_schedule_free_weights_are_the_packages() -> None:
    """x from y and z as `eval()` computes it, without `eval()` on the live weights."""
    from schedulefree import AdamWScheduleFree

    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = AdamWScheduleFree(model.parameters(), lr=0.1, betas=(0.9, 0.99))
    optimizer.train()
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
    raw = state(model)
    ours = schedule_free(model.weight.detach(), optimizer.state[model.weight]["z"], 0.9)
    assert same(state(model), raw)
    optimizer.eval()
    torch.testing.assert_close(ours, model.weight.detach(), rtol=0, atol=1e-6)
    assert not torch.equal(ours, raw["weight"])
