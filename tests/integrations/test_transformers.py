"""The real Trainer: stopping, extending, evaluating and saving averages, whatever the model is."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hf_tiny import RULES, SCHEDULE, Rows, Stream, arguments, model, rates, same, weights
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, Trainer, TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from anytrain import rules, schedules
from anytrain.integrations import stored
from anytrain.integrations.transformers import ENDLESS, AnytimeCallback, AnytimeTrainer


def trainer(out: Path, steps: int = 10, *, data: Any = None, net: Any = None, **mixed: Any) -> Any:
    """An AnytimeTrainer; what it does not take itself goes to the arguments."""
    own = ("schedule", "averages", "evaluated", "missing", "average_every", "callbacks")
    ours = {"schedule": SCHEDULE, "averages": RULES}
    ours |= {key: mixed.pop(key) for key in own if key in mixed}
    held_out = mixed.pop("eval_dataset", Rows(8, 100))
    args = arguments(out, max_steps=steps, **mixed)
    return AnytimeTrainer(net or model(), args, train_dataset=data or Rows(24),
                          eval_dataset=held_out, **ours)  # fmt: skip


def averages(made: Any) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = made.anytime.averages.tensors
    return {name: {k: t.clone() for k, t in found[name].items()} for name in found}


class Iterates(TrainerCallback):
    """Keeps the weights before the first step and after every one."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_begin(self, *_: Any, **objects: Any) -> None:
        self.seen.append(weights(objects["model"]))

    def on_step_end(self, *_: Any, **objects: Any) -> None:
        self.seen.append(weights(objects["model"]))


# --- stopping, going on, extending -----------------------------------------------------------


def test_a_training_that_is_extended_is_one_that_never_stopped(tmp_path: Path) -> None:
    """Weights, averages and rates, to the bit, though the first had planned for half the steps."""
    evaluated = {"eval_strategy": "steps", "eval_steps": 4}
    straight = trainer(tmp_path / "straight", 20, **evaluated)
    straight.train()
    trainer(tmp_path / "parts", 10, **evaluated).train()
    later = trainer(tmp_path / "parts", 20, net=model(seed=1), **evaluated)
    later.train(resume_from_checkpoint=True)
    assert same(weights(later.model), weights(straight.model))
    for name, tensors in averages(straight).items():
        assert same(averages(later)[name], tensors)
    expected = schedules.schedule(SCHEDULE)
    assert rates(later) == rates(straight) == [expected(t) for t in range(1, 21)]
    assert later.anytime.averages.t == 20
    final = [path / "checkpoint-20" / stored.FOLDER for path in tmp_path.iterdir()]
    one, other = (json.loads((path / "manifest.json").read_text()) for path in final)
    assert one == other  # the checksums of every file with it
    assert one["step"] == 20
    assert one["rate"] == expected(20)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_average_is_the_sum_that_its_rule_says(tmp_path: Path, compiled: bool) -> None:
    """And the next process goes on with it: what compiling renames is found again."""
    seen = Iterates()
    settings = {"gradient_accumulation_steps": 3, "torch_compile": compiled}
    made = trainer(tmp_path, callbacks=[seen], **settings)
    made.train()
    assert len(seen.seen) == 11  # one a step of three batches
    for name, spec in RULES.items():
        mass = rules.weights(rules.rule(spec), 10)
        assert np.count_nonzero(mass) >= 10
        for key, average in made.anytime.averages.tensors[name].items():
            by_hand = sum(m * w[key].double() for m, w in zip(mass, seen.seen, strict=True))
            torch.testing.assert_close(average.double(), by_hand, atol=1e-6, rtol=0)
    losses = [value for key, value in made.evaluate().items() if key.endswith("_loss")]
    assert len(set(losses)) == 3
    on = trainer(tmp_path, net=model(seed=1), **settings)
    on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert same(averages(on)["ema2"], averages(made)["ema2"])


def test_neither_averages_nor_evaluating_change_a_bit_of_the_training(tmp_path: Path) -> None:
    """Though data loaders draw random numbers that dropout draws from too."""
    evaluated = {"eval_strategy": "steps", "eval_steps": 2}
    found = []
    for name, settings in {"with": evaluated, "averages": {}, "none": {"averages": {}}}.items():
        made = trainer(tmp_path / name, **settings)
        made.train()
        found.append(weights(made.model))
    assert same(found[0], found[2])
    assert same(found[1], found[2])


def test_no_number_of_steps_is_needed(tmp_path: Path) -> None:
    """A stream that ends is an end; until then only the caller stops, and what is saved goes on."""
    made = trainer(tmp_path, -1, data=Stream(24), eval_strategy="steps", eval_steps=100)
    assert made.args.max_steps == ENDLESS
    made.train()
    assert made.state.global_step == 12
    assert "eval_ema2_loss" in made.state.log_history[-3] | made.state.log_history[-2]
    assert (tmp_path / "checkpoint-12" / "trainer_state.json").exists()
    until = trainer(tmp_path / "until", 15, data=Stream(40))
    until.train()
    assert until.state.global_step == 15
    on = trainer(tmp_path / "until", -1, data=Stream(40), net=model(seed=1))
    on.train(resume_from_checkpoint=True)
    straight = trainer(tmp_path / "straight", -1, data=Stream(40))
    straight.train()
    assert on.state.global_step == straight.state.global_step == 20
    assert same(weights(on.model), weights(straight.model))
    bound = trainer(tmp_path, -1, data=Stream(24), schedule="wsd:horizon=7-steps,peak=1e-2")
    assert bound.args.max_steps == 7


def test_what_sigterm_saves_goes_on(tmp_path: Path) -> None:
    """The Trainer's own checkpoint on a signal, asked for as its timer does seconds after one."""

    class Terminating(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 7:
                handler = made.callback_handler.callbacks
                (jit,) = (c for c in handler if isinstance(c, JITCheckpointCallback))
                jit.jit_manager.is_checkpoint_requested = True

    straight = trainer(tmp_path / "straight", 12)
    straight.train()
    settings = {"enable_jit_checkpoint": True, "save_strategy": "no"}
    made = trainer(tmp_path / "ended", 12, callbacks=[Terminating()], **settings)
    made.train()
    assert [path.name for path in (tmp_path / "ended").iterdir()] == ["checkpoint-7"]
    later = trainer(tmp_path / "ended", 12, net=model(seed=1))
    later.train(resume_from_checkpoint=True)
    assert same(weights(later.model), weights(straight.model))
    assert same(averages(later)["ema2"], averages(straight)["ema2"])


def test_a_schedule_that_ends_trains_to_its_end_and_no_further(tmp_path: Path) -> None:
    cosine = "cosine:horizon=8-steps,peak=1e-2"
    made = trainer(tmp_path / "to", 8, schedule=cosine)
    made.train()
    assert rates(made)[-1] == 0
    with pytest.raises(ValueError, match="9 steps lie beyond the horizon of 8 that cosine"):
        trainer(tmp_path / "beyond", 9, schedule=cosine).train()
    assert not list((tmp_path / "beyond").iterdir())


def test_a_cooldown_goes_on_from_a_trunk_and_another_rate_does_not(tmp_path: Path) -> None:
    trainer(tmp_path, 10, save_steps=10).train()
    cooldown = f"cooldown:horizon=14-steps,start=10-steps,trunk=({SCHEDULE})"
    branch = trainer(tmp_path, 14, schedule=cooldown)
    branch.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    expected = schedules.schedule(cooldown)
    assert rates(branch) == [expected(t) for t in range(1, 15)]
    other = trainer(tmp_path, 20, schedule=SCHEDULE.replace("1e-2", "2e-2"))
    with pytest.raises(ValueError, match=r"took step 10 at the rate 0\.00852803 of inverse_sqrt"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))


@pytest.mark.parametrize("only_model", [True, False])
def test_the_rate_goes_on_where_the_checkpoint_has_no_scheduler_of_ours(
    tmp_path: Path, only_model: bool
) -> None:
    if only_model:
        trainer(tmp_path, 10, save_only_model=True).train()
    else:  # the Trainer's own linear decay to 0
        Trainer(model(), arguments(tmp_path, max_steps=10), train_dataset=Rows(24)).train()
    later = trainer(tmp_path, 13, missing="begin")
    later.train(resume_from_checkpoint=True)
    expected = schedules.schedule(SCHEDULE)
    assert rates(later)[-3:] == [expected(t) for t in (11, 12, 13)]
    began = 0 if only_model else 10
    assert set(later.anytime.averages.since.values()) == {began}


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_step_that_the_scaler_skips_is_no_step(tmp_path: Path, optim: str) -> None:
    """Half precision's scale is far too high at first: it is halved, and those steps do nothing."""
    seen = Iterates()
    made = trainer(tmp_path, 10, save_steps=6, optim=optim, callbacks=[seen])
    made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    made.train()
    taken = sum(not same(a, b) for a, b in pairwise(seen.seen))
    assert 5 < taken < 10
    assert made.lr_scheduler.last_epoch == taken
    assert made.anytime.averages.t == taken
    on = trainer(tmp_path, 10, net=model(seed=1), optim=optim)
    on.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert same(weights(on.model), weights(made.model))
    assert on.anytime.averages.t == taken
    assert same(averages(on)["ema2"], averages(made)["ema2"])


# --- evaluating and saving -------------------------------------------------------------------


def test_every_average_has_metrics_of_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    before = {key for key in made.evaluate() if key.endswith("_loss")}
    assert before == {"eval_loss"}  # there are no averages yet
    made.train()
    found = made.evaluate()
    for name in RULES:
        with made.applied(name):
            assert made.evaluate()["eval_loss"] == found[f"eval_{name}_loss"]
    assert len({found[key] for key in ("eval_loss", "eval_ema2_loss", "eval_uniform_loss")}) == 3
    several = trainer(
        tmp_path, eval_dataset={"a": Rows(4, 50), "b": Rows(4, 70)}, evaluated=["ema2"]
    )
    several.train()
    losses = {key for key in several.evaluate() if key.endswith("_loss")}
    assert losses == {"eval_a_loss", "eval_b_loss", "eval_a_ema2_loss", "eval_b_ema2_loss"}


def test_a_named_average_is_saved_for_from_pretrained(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.train()
    raw = weights(made.model)
    made.save_model(str(tmp_path / "ema2"), weights="ema2")
    assert same(weights(made.model), raw)
    found = LlamaForCausalLM.from_pretrained(tmp_path / "ema2").state_dict()
    assert same(found, averages(made)["ema2"])
    kept = stored.tensors(tmp_path / "checkpoint-10", "ema2")
    assert same(kept, averages(made)["ema2"])
    with pytest.raises(ValueError, match=r"no average 'ema3' .did you mean 'ema2'"):
        made.save_model(str(tmp_path / "other"), weights="ema3")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="holds no average 'ema3'; it holds ema2, uniform"):
        stored.tensors(tmp_path / "checkpoint-10", "ema3")


def test_a_checkpoint_never_has_averaged_weights_for_raw_ones(tmp_path: Path) -> None:
    """Also where a callback asks for one in the middle of an average's evaluation."""

    class Saving(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save = True

    seen = Iterates()
    made = trainer(tmp_path, 6, eval_strategy="steps", eval_steps=2, save_steps=100,
                   callbacks=[seen, Saving()])  # fmt: skip
    made.train()
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        assert same(load_file(folder / "model.safetensors"), seen.seen[step])
        assert not same(stored.tensors(folder, "ema2"), seen.seen[step])
    shutil.rmtree(tmp_path / "checkpoint-6")
    with made.applied("ema2"), pytest.raises(RuntimeError, match="cannot save a checkpoint while"):
        made._save_checkpoint(made.model, None)
    assert not (tmp_path / "checkpoint-6").exists()


@pytest.mark.parametrize("metric", ["eval_loss", "eval_uniform_loss", "uniform_loss"])
def test_the_best_model_is_the_weights_that_the_metric_is_of(tmp_path: Path, metric: str) -> None:
    """The averages beside it are the best checkpoint's too: all of one moment."""
    made = trainer(tmp_path, 12, eval_strategy="steps", eval_steps=5, save_strategy="steps",
                   load_best_model_at_end=True, metric_for_best_model=metric,
                   greater_is_better=True)  # fmt: skip
    made.train()  # the loss falls: what is worst is not the last
    best = Path(made.state.best_model_checkpoint)
    assert best.name == "checkpoint-5"
    expected = load_file(best / "model.safetensors")
    if "uniform" in metric:
        expected = stored.tensors(best, "uniform")
    assert same(weights(made.model), expected)
    assert same(averages(made)["ema2"], stored.tensors(best, "ema2"))
    full = metric if metric.startswith("eval_") else f"eval_{metric}"
    assert made.evaluate()[full] == made.state.best_metric
    assert made.evaluate()["eval_loss"] == made.state.best_metric


# --- models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_and_frozen_weights_and_16_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """Frozen ones have no average, trained ones their own; tied ones once; averages are fp32."""
    net = model(tie_word_embeddings=True).to(dtype)
    for name, parameter in net.named_parameters():
        parameter.requires_grad = "layers.0" not in name
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    made = trainer(tmp_path, net=net)
    made.train()
    found = averages(made)["ema2"]
    assert found.keys() == trained
    assert "lm_head.weight" not in found
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    on = trainer(tmp_path, 10, net=net)
    on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert same(averages(on)["ema2"], found)
    made.save_model(str(tmp_path / "ema2"), weights="ema2")
    released = LlamaForCausalLM.from_pretrained(tmp_path / "ema2", dtype=dtype).state_dict()
    for name, tensor in released.items():
        live = net.state_dict()[name] if "layers.0" in name else None
        average = found.get(name, found["model.embed_tokens.weight"]) if live is None else live
        assert torch.equal(tensor, average.to(dtype))


def test_what_is_unfrozen_later_is_an_error(tmp_path: Path) -> None:
    class Unfreezing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            objects["model"].lm_head.weight.requires_grad = True

    net = model()
    net.lm_head.weight.requires_grad = False
    made = trainer(tmp_path, net=net, callbacks=[Unfreezing()])
    with pytest.raises(RuntimeError, match=r"lm_head.weight was frozen when its averages began"):
        made.train()


# --- files -----------------------------------------------------------------------------------


def test_rotation_takes_the_averages_with_it(tmp_path: Path) -> None:
    trainer(tmp_path, 20, save_total_limit=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-20"]
    assert stored.manifest(tmp_path / "checkpoint-20") is not None


def test_missing_averages_are_a_sentence(tmp_path: Path) -> None:
    trainer(tmp_path, 5).train()
    shutil.rmtree(tmp_path / "checkpoint-5" / stored.FOLDER)
    with pytest.raises(ValueError, match="checkpoint-5 holds no averages, though ema2, uniform"):
        trainer(tmp_path, 10).train(resume_from_checkpoint=True)
    on = trainer(tmp_path, 10, missing="begin")
    on.train(resume_from_checkpoint=True)
    assert on.anytime.averages.since == {"ema2": 5, "uniform": 5}
    assert on.anytime.averages.t == 10
    with pytest.raises(
        ValueError, match=r"here are \{\}; the same are valid"
    ):  # none is a loss, too
        trainer(tmp_path, 12, averages={}).train(resume_from_checkpoint=True)


def test_other_averages_are_a_sentence_or_begin(tmp_path: Path) -> None:
    first = trainer(tmp_path, 5)
    first.train()
    wider = {**RULES, "wide": "anytime_ema:f=1"}
    with pytest.raises(ValueError, match=r"holds averages .*'ema2'.* here are .*'wide'"):
        trainer(tmp_path, 10, averages=wider).train(resume_from_checkpoint=True)
    on = trainer(tmp_path, 10, averages=wider, missing="begin")
    on.train(resume_from_checkpoint=True)
    assert on.anytime.averages.since == {"ema2": 0, "uniform": 0, "wide": 5}
    straight = trainer(tmp_path / "straight", 10)
    straight.train()
    assert same(averages(on)["ema2"], averages(straight)["ema2"])


def test_a_damaged_folder_is_a_sentence(tmp_path: Path) -> None:
    trainer(tmp_path, 5).train()
    file = tmp_path / "checkpoint-5" / stored.FOLDER / "ema2.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"averages is damaged: ema2.safetensors is not what"):
        trainer(tmp_path, 10).train(resume_from_checkpoint=True)
    file.write_bytes(b"\xff" * 8 + whole[8:])
    with pytest.raises(ValueError, match=r"ema2.safetensors is damaged"):
        trainer(tmp_path, 10).train(resume_from_checkpoint=True)
    file.write_bytes(whole)
    wide = trainer(tmp_path, 10, net=model(intermediate_size=48))
    with pytest.raises((ValueError, RuntimeError), match="size mismatch"):  # the Trainer's own
        wide.train(resume_from_checkpoint=True)


def test_a_checkpoint_that_could_not_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the averages, and none of the Trainer's state: the one before is resumed."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    straight = trainer(tmp_path / "straight")
    straight.train()
    parts = tmp_path / "parts"
    trainer(parts, 5).train()
    with monkeypatch.context() as patched:
        patched.setattr(stored, "seal", full)
        with pytest.raises(OSError, match="No space left"):
            trainer(parts).train(resume_from_checkpoint=True)
    names = {path.name for path in (parts / "checkpoint-10").iterdir()}
    assert "model.safetensors" in names
    assert names.isdisjoint({stored.FOLDER, f".writing-{stored.FOLDER}", "trainer_state.json"})
    later = trainer(parts, net=model(seed=1))
    later.train(resume_from_checkpoint=True)
    assert same(weights(later.model), weights(straight.model))
    assert same(averages(later)["ema2"], averages(straight)["ema2"])
    (parts / "checkpoint-5" / "trainer_state.json").write_text('{"torn')
    shutil.rmtree(parts / "checkpoint-10")
    with pytest.raises(ValueError, match="parts holds no finished checkpoint"):
        trainer(parts).train(resume_from_checkpoint=True)


# --- a plain Trainer -------------------------------------------------------------------------


def plain(out: Path, steps: int, callback: AnytimeCallback, **settings: Any) -> Any:
    args = arguments(out, max_steps=steps, lr_scheduler_type="constant", **settings)
    return Trainer(model(), args, train_dataset=Rows(24), callbacks=[callback])


def test_a_plain_trainer_with_the_callback(tmp_path: Path) -> None:
    straight = AnytimeCallback(RULES)
    plain(tmp_path / "straight", 10, straight).train()
    first = AnytimeCallback(RULES)
    plain(tmp_path / "parts", 5, first).train()
    later = AnytimeCallback(RULES)
    made = plain(tmp_path / "parts", 10, later)
    made.train(resume_from_checkpoint=True)
    moved = AnytimeCallback(RULES, checkpoint=tmp_path / "parts" / "checkpoint-5")
    plain(tmp_path / "elsewhere", 10, moved).train(str(tmp_path / "parts" / "checkpoint-5"))
    for name in RULES:
        for found in (later, moved):
            assert same(found.averages.tensors[name], straight.averages.tensors[name])
    raw = weights(made.model)
    with later.applied("ema2"):
        assert same(weights(made.model), later.averages.tensors["ema2"])
    assert same(weights(made.model), raw)
    lost = AnytimeCallback(RULES)
    with pytest.raises(ValueError, match="elsewhere2/checkpoint-5 holds no averages"):
        plain(tmp_path / "elsewhere2", 10, lost).train(str(tmp_path / "parts" / "checkpoint-5"))


# --- sentences -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixed", "sentence"),
    [
        ({"lr_scheduler_type": "cosine"}, "cosine beside schedule = inverse_sqrt:.*; one of them"),
        ({"warmup_steps": 9}, "warmup_steps = 9 beside schedule"),
        ({"learning_rate": 0.5}, "learning_rate = 0.5 beside schedule"),
        ({"evaluated": ["ema3"]}, "evaluated names 'ema3' .did you mean 'ema2'"),
        ({"missing": "no"}, "missing = 'no'; 'error' and 'begin' are valid"),
        ({"schedule": "inverse_sqr:peak=1"}, "unknown kind 'inverse_sqr'"),
        ({"averages": {"raw": "uniform"}}, "average 'raw': the name is taken"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, mixed: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, **mixed).train()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("checkpoint")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"deepspeed": "zero3.json"}, "deepspeed is set: .*; FSDP2 or DDP are valid"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, "fsdp_config version = 1: .*; 2 is valid"),
    ],
)
def test_shards_that_cannot_be_averaged_are_a_sentence(settings: Any, sentence: str) -> None:
    args = SimpleNamespace(**settings)
    with pytest.raises(ValueError, match=sentence):
        AnytimeCallback(RULES).on_train_begin(args, None, None)


def test_nothing_is_applied_before_it_began(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot apply 'ema2': averages begin when"):
        trainer(tmp_path).applied("ema2")


def test_a_peak_that_says_the_same_is_no_contradiction(tmp_path: Path) -> None:
    made = trainer(tmp_path, 2, learning_rate=1e-2)
    made.train()
    assert rates(made) == [0.0025, 0.005]
