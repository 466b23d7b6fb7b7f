from pathlib import Path

import pytest
import torch
from model_shapes import ANYTIME

from anytrain.models.decoder import Decoder
from anytrain.models.generate import generate, sample
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape


def lively(shape: DecoderShape) -> Decoder:
    """Weights large enough that greedy text is not one token for ever."""
    model = Decoder.seeded(shape, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim == 2 and shape.is_llama else 1)
    return model


@pytest.mark.parametrize(
    "shape", [DecoderShape(2, 32, 4, 64, kv_heads=2, context=64), ANYTIME], ids=["llama", "anytime"]
)
def test_greedy_is_that_of_transformers(shape: DecoderShape, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = lively(shape)
    out = tmp_path / f"greedy_{shape.norm}"
    write_directory(out, shape, model.state_dict())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        out, trust_remote_code=not shape.is_llama
    )
    prompt = [1, 2, 3]
    text = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, 3:]
    ours = list(generate(model, prompt, max_new=20, temperature=0))
    assert ours == text.tolist()
    assert len(set(ours)) > 2


def test_a_seed_repeats_and_another_does_not() -> None:
    model = lively(ANYTIME)
    a, b, c = (list(generate(model, [1], max_new=30, seed=s)) for s in (0, 0, 1))
    assert a == b != c
    assert len(a) == 30


def test_stops_after_end_of_text() -> None:
    model = lively(ANYTIME)
    text = list(generate(model, [1], max_new=200, seed=0, eot=7))
    assert text[-1] == 7
    assert text.count(7) == 1


def test_sees_the_last_context_tokens() -> None:
    model = lively(ANYTIME)
    long = [t % 64 for t in range(100)]
    cropped = long[-ANYTIME.context :]
    options = {"max_new": 5, "temperature": 0.0}
    assert list(generate(model, long, **options)) == list(generate(model, cropped, **options))  # type: ignore[arg-type]


def test_sampling_follows_the_softmax_of_the_top_k() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    draws = [sample(logits, 2.0, 2, generator) for _ in range(4000)]
    assert set(draws) == {2, 3}
    assert draws.count(3) / 4000 == pytest.approx(torch.tensor(0.5).sigmoid().item(), abs=0.025)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokens": []}, "nothing to go on from"),
        ({"temperature": -1.0}, r"temperature = -1\.0; 0 \(greedy\) or more is valid"),
        ({"top_k": 0}, "top_k = 0; 1 or more is valid"),
    ],
)
def test_bad_options(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(lively(ANYTIME), **{"tokens": [1], "max_new": 1, **change})  # type: ignore[arg-type]
