"""What a person sees while a run trains: a bar on a terminal, lines in a log file."""

import sys

from tqdm import tqdm

from anytrain.grammar import short_count
from anytrain.training.loop import Record


class Progress:
    """Loss, best validation loss and whose it is, tokens/s and FLOP/s, on standard error."""

    def __init__(self, step: int, silent: bool = False) -> None:
        self.best = ""
        self.silent = silent  # of several processes one speaks
        # no total: the run has no end; on a pipe there are lines instead of a bar
        quiet = True if silent else None
        self.bar = tqdm(initial=step, unit=" steps", disable=quiet, dynamic_ncols=True)

    def step(self, record: Record, tokens_per_second: float, flops_per_second: float) -> None:
        """One more step was taken."""
        if self.bar.disable:
            return
        speed = f"{tokens_per_second:,.0f} tok/s {flops_per_second / 1e9:,.0f} GFLOP/s"
        text = f"{short_count(record.tokens)} tokens, loss {record.loss:.3f}{self.best}, {speed}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def back_to(self, step: int) -> None:
        """The run went back."""
        self.bar.n = step

    def evaluated(self, name: str, loss: float, tokens: int, step: int) -> None:
        """Validation found the best weights so far at this moment."""
        self.best = f", val {loss:.4f} ({name})"
        if self.bar.disable:
            self.say(f"step {step}, {tokens:,} tokens: validation {loss:.4f} nats/token ({name})")

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.silent:
            return
        if self.bar.disable:
            print(f"anytrain: {line}", file=sys.stderr, flush=True)
        else:
            self.bar.write(f"anytrain: {line}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
