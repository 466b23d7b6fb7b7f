"""Which verb needs which package, and which of them are here. Nothing is imported to find out."""

import re
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

_TENSORS = ("torch", "numpy", "numba", "safetensors", "tokenizers")
_RECIPES = ("pydantic", "tomli_w")
_TRAINER = (*_TENSORS, *_RECIPES, "schedulefree", "tqdm")

NEEDS: dict[str, tuple[str, ...]] = {  # verb -> packages, named alike by pip and by import
    "prepare": ("numpy", "tokenizers", "pyarrow", "tqdm"),
    "plan": ("numpy", *_RECIPES),
    "train": _TRAINER,
    "status": ("numpy",),
    "fork": _TRAINER,
    "release": _TENSORS,
    "merge": ("numpy", "tokenizers"),
    "convert": _TENSORS,
    "generate": _TENSORS,
    "finetune": (*_TENSORS, *_RECIPES, "trl", "transformers", "accelerate", "datasets"),
    "evaluate": _TENSORS,
    "study": (*_TRAINER, "pyarrow"),
    "report": ("numpy",),
    "sharpness": _TENSORS,
    "theory": ("numpy", "numba"),
    "completion": ("shtab", *_RECIPES),
}


_EXTRAS = dict.fromkeys(("trl", "transformers", "accelerate", "datasets"), "posttrain")


@dataclass(frozen=True)
class Option:
    """What one more package is for."""

    verb: str
    package: str
    extra: str  # of anytrain, that brings it
    what: str


OPTIONS = (
    Option("train", "tensorboard", "tensorboard", "log.tensorboard=true"),
    Option("train", "wandb", "wandb", "log.wandb=PROJECT"),
    Option("train", "trackio", "trackio", "log.trackio=PROJECT"),
    Option("train", "mlflow", "mlflow", "log.mlflow=EXPERIMENT"),
    Option("train", "fsspec", "mirror", "checkpoint.mirror=LOCATION"),
    Option("release", "transformers", "transformers", "loading what was released"),
    Option("convert", "yaml", "transformers", "checkpoints of litgpt"),
    Option("merge", "matplotlib", "report", "--curve"),
    Option("evaluate", "lm_eval", "evaluate", "every task"),
    Option("evaluate", "transformers", "evaluate", "every model"),
    Option("study", "matplotlib", "report", "its figures"),
    Option("study", "plotly", "report", "its page"),
    Option("study", "scipy", "report", "the laws of decayed runs"),
    Option("study", "ray", "ray", "--executor ray"),
    Option("study", "submitit", "slurm", "--executor slurm"),
    Option("report", "matplotlib", "report", "--out"),
    Option("report", "plotly", "report", "--live"),
    Option("sharpness", "matplotlib", "report", "--figure"),
    Option("theory", "matplotlib", "report", "the picture of sweep"),
)


@dataclass(frozen=True)
class Row:
    """One verb: what it has, what it lacks, and what of it is optional and absent."""

    verb: str
    here: dict[str, str]  # package -> version
    missing: dict[str, str]  # package -> the command that adds it
    optional: dict[str, str]  # what it is for -> the command that adds it

    @property
    def ready(self) -> bool:
        return not self.missing


def look() -> list[Row]:
    """Every verb with what is here and what is not."""
    rows = []
    for verb, packages in NEEDS.items():
        here = {package: version(package) for package in packages if find_spec(package)}
        missing = {package: _pip(package) for package in packages if package not in here}
        optional = {
            f"{option.what} needs {option.package}": f"pip install 'anytrain[{option.extra}]'"
            for option in OPTIONS
            if option.verb == verb and find_spec(option.package) is None
        }
        rows.append(Row(verb, here, missing, optional))
    return rows


def version(package: str) -> str:
    """Of an installed package; one that lies on the path without metadata has none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _pip(package: str) -> str:
    """The command that installs a core dependency in the version that is asked for, or an extra."""
    for requirement in metadata.requires("anytrain") or ():
        name = re.match(r"[\w.-]+", requirement)
        if name and name[0].replace("-", "_") == package and "extra ==" not in requirement:
            return f"pip install '{requirement.partition(';')[0].strip()}'"
    extra = _EXTRAS.get(package)
    return f"pip install 'anytrain[{extra}]'" if extra else f"pip install {package}"
