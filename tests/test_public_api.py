"""`__all__` is the API, every name in it is documented, and it is there at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import anytrain
import anytrain.averaging
import anytrain.data
import anytrain.testing

API = {
    "AnytimeEma",
    "Averages",
    "BeyondHorizon",
    "Constant",
    "Cooldown",
    "Cosine",
    "Ema",
    "HorizonBound",
    "InverseSqrt",
    "Linear",
    "Polynomial",
    "Power",
    "PowerEma",
    "Rule",
    "Schedule",
    "Uniform",
    "WSD",
    "__version__",
    "weights",
}


def test_all_is_the_api() -> None:
    """A name goes in or out of the API here and there at once."""
    assert set(anytrain.__all__) == API
    assert len(anytrain.__all__) == len(API)


@pytest.mark.parametrize("package", [anytrain, anytrain.averaging, anytrain.data])
def test_every_public_name_is_there_and_documented(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        value = getattr(package, name)
        assert name.startswith("__") or value.__doc__, f"{name} has no docstring"
    namespace: dict[str, object] = {}
    exec(f"from {package.__name__} import *", namespace)  # type: ignore[attr-defined]
    assert set(package.__all__) <= namespace.keys()  # type: ignore[attr-defined]


def test_no_module_takes_the_place_of_a_name() -> None:
    """A submodule becomes an attribute of its package once anybody imports it."""
    folder = Path(anytrain.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix in ("", ".py")}
    assert not modules & API


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Averagez'"):
        _ = anytrain.Averagez  # type: ignore[attr-defined]


def test_the_import_loads_nothing_heavy() -> None:
    """Counted, not timed: a clock on a shared machine proves nothing."""
    code = (
        "import sys, anytrain, anytrain.testing\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'pyarrow', 'tokenizers', 'matplotlib', 'tqdm'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "ours = sorted(n for n in sys.modules if n.startswith('anytrain'))\n"
        "assert len(ours) <= 6, ours\n"
        "anytrain.Averages\n"
        "assert 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anytrain", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"anytrain {anytrain.__version__}\n")


def test_the_five_line_loop() -> None:
    """Averages with any model and any optimizer, and nothing else of ours."""
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averages, lr = anytrain.Averages(model), anytrain.InverseSqrt(0.1, warmup=2, offset=8)
    for step in range(1, 6):
        optimizer.param_groups[0]["lr"] = lr(step)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        averages.update()
    raw = model.weight.detach().clone()
    with averages.applied("ema25"):
        assert not torch.equal(model.weight, raw)
    assert torch.equal(model.weight, raw)
