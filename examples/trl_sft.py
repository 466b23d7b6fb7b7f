"""TRL's SFTTrainer without a horizon: an average of a fine-tuning, evaluated and saved by name.

    python examples/trl_sft.py --out /tmp/sft

A tiny Llama learns to write the first line of a docstring below the line that defines a function,
from Python's own sources, in half a minute on one CPU thread. The data has no length and nobody
says how many steps: the training ends with it.
"""

import argparse
import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from anytrain import AnytimeEma, Constant
from anytrain.integrations.transformers import AnytimeTrainerMixin


class AnytimeSFTTrainer(AnytimeTrainerMixin, SFTTrainer):
    """Two bases, nothing else."""


def functions(limit: int) -> Iterator[dict[str, str]]:
    """What a function is called with, and what its docstring begins with."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = 0
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if isinstance(node, ast.FunctionDef) and text and found < limit:
                found += 1
                head = f"def {node.name}({ast.unparse(node.args)}):\n"
                yield {"prompt": head, "completion": f'    """{text.splitlines()[0]}'}


def tokenizer(rows: list[dict[str, str]]) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<end>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        (text for row in rows for text in row.values()),
        trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet,
                            show_progress=False),
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<pad>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sft"))
    parser.add_argument("--rows", type=int, default=1600)
    options = parser.parse_args()

    rows = list(functions(options.rows))
    cut = len(rows) * 9 // 10
    words = tokenizer(rows)
    set_seed(0)
    shape = LlamaConfig(vocab_size=len(words), hidden_size=64, intermediate_size=128,
                        num_hidden_layers=2, num_attention_heads=4,
                        max_position_embeddings=256)  # fmt: skip
    args = SFTConfig(
        str(options.out), per_device_train_batch_size=8, per_device_eval_batch_size=32,
        max_length=128, gradient_checkpointing=False, save_steps=100, logging_steps=50,
        use_cpu=True, bf16=False, dataloader_pin_memory=False, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = AnytimeSFTTrainer(
        LlamaForCausalLM(shape), args, processing_class=words,
        train_dataset=IterableDataset.from_generator(lambda: iter(rows[:cut])),
        eval_dataset=Dataset.from_list(rows[cut:]),
        schedule=Constant(peak=3e-3, warmup=10), averages={"ema6": AnytimeEma(6)},
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    for name in ("", "ema6_"):
        loss, right = found[f"eval_{name}loss"], found[f"eval_{name}mean_token_accuracy"]
        print(f"{name.rstrip('_') or 'raw'}: {loss:.4f} nats/token, {right:.1%} of tokens right")
    trainer.save_model(str(options.out / "released"), weights="ema6")
    print(f"after {trainer.state.global_step} steps, ema6 is in {options.out / 'released'}")


if __name__ == "__main__":
    main()
