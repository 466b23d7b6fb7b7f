"""Fine-tuned weights as Hugging Face directories, with tokenizer and template."""

import shutil
from pathlib import Path
from typing import Any

from anytrain.files import appearing
from anytrain.models.huggingface import write_directory
from anytrain.posttrain import template
from anytrain.posttrain.bases import Base
from anytrain.posttrain.points import Phase, Point
from anytrain.posttrain.settings import Keep


def keeps(keep: Keep, phase: Phase) -> bool:
    """Whether a point's weights are kept: `chosen` keeps those that are reported."""
    return keep == "all" or (keep == "chosen" and phase == "report")


def keep(out: Path, model: Any, base: Base, point: Point) -> None:
    """Write a model; one that a killed sweep left before it recorded its point is replaced."""
    shutil.rmtree(out, ignore_errors=True)
    state = model.state_dict()
    tensors = {name: state[name].detach().cpu() for name in base.shape.tensors()}
    with appearing(out) as draft:
        write_directory(
            draft,
            base.shape,
            tensors,
            tokenizer=base.path / "tokenizer.json",
            eot=base.eot,
            card=_card(out.name, base, point),
        )
        (draft / template.FILE).write_text(base.template, encoding="utf-8")


def _card(name: str, base: Base, point: Point) -> str:
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [anytrain, trl]",
            "---",
            f"# {name}",
            "",
            f"`{base.source}`, fine-tuned by anytrain with TRL: learning rate {point['lr']:g}, "
            f"seed {point['seed']}, {point['steps']} steps, {point['tokens']:,} tokens.",
            "",
        ]
    )
