"""A post-training study's directory: what there is to do and what is done. No torch."""

from collections.abc import Iterator
from pathlib import Path

from anytrain.files import write_atomic
from anytrain.study.post.design import Design
from anytrain.study.post.steps import Step, recipe_files, steps


class PostStudy:
    """Steps of a design in a directory.

    OUT/study.toml, recipe.toml     the design
    OUT/runs/, OUT/merged/          base models
    OUT/finetuned/TASK/BASE/        what `anytrain finetune` found
    OUT/sharpness/BASE.jsonl        what `anytrain sharpness` found
    OUT/steps/, jobs/, logs/        what is done, what each process was told, what it said
    """

    def __init__(self, design: Design, out: Path) -> None:
        self.design = design
        self.out = out.resolve()
        self.steps = steps(design, self.out)
        self.refresh()

    def keep_design(self) -> None:
        """Write the study file, its recipe and every run's."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, text in self.design.files().items():
            write_atomic(self.out / name, text)
        for path, text in recipe_files(self.design, self.out):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)

    def refresh(self) -> None:
        """Read the markers."""
        self._done = {name for name, step in self.steps.items() if step.done(self.out)}

    def over(self, job: Step) -> bool:
        return job.name in self._done or job.done(self.out)

    def ready(self) -> Iterator[Step]:
        """Steps whose needs are done: bases before tuning, tuning before curvature."""
        missing = [step for step in self.steps.values() if step.name not in self._done]
        for step in sorted(missing, key=lambda step: -step.rank):
            if all(need in self._done for need in step.needs):
                yield step

    def count(self) -> int:
        return len(self.steps)

    def progress(self) -> str:
        return f"{len(self._done)} of {len(self.steps)} steps done"

    def outlook(self) -> list[str]:
        """One line a step, with the verbs that are left to run."""
        out = []
        for step in self.steps.values():
            if self.over(step):
                out.append(f"{step.name}  done")
                continue
            out += [f"{step.name}", *(f"  anytrain {' '.join(words)}" for words in step.verbs)]
        return [*out, self.progress()]
