"""How a conversation becomes text: a base's own chat template, a file's, or ours.

A template marks what the assistant says with `{% generation %}`; those tokens, with the one that
ends the turn, are what is learnt.
"""

import re
from pathlib import Path
from typing import Any

from anytrain.errors import UserError

FILE = "chat_template.jinja"

# Plain words, so that any BPE can spell it. A line break before the answer: no pre-tokenizer of
# the usual ones joins it to the letters after it, so a prompt has the same tokens alone and
# before its answer. For that the answer's own blanks at its borders go.
DEFAULT = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'Assistant:\\n' }}
{%- generation %}
{{- message['content'] | trim + eos_token }}
{%- endgeneration %}
{%- else %}
{{- message['role'] | capitalize + ':\\n' + message['content'] | trim + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:\\n' }}
{%- endif %}
"""

_MARKS = re.compile(r"\{%-?\+?\s*generation\s*[-+]?%\}")


def chosen(asked: Path | None, own: str | None, base: str) -> str:
    """The file's template if one is asked for, else the base's own, else ours.

    Raises UserError for one that does not mark what the assistant says.
    """
    text, whose = DEFAULT, ""
    if asked is not None:
        try:
            text, whose = asked.read_text(encoding="utf-8"), f"--template {asked}"
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--template {asked}: {error}") from error
    elif own is not None:
        text, whose = own, f"{base}: its chat template"
    if not _MARKS.search(text):
        raise UserError(
            f"{whose} has no {{% generation %}}, so nothing says what the assistant's tokens are; "
            "a --template FILE with {% generation %} … {% endgeneration %} around the assistant's "
            "content and its end of turn is valid"
        )
    return text


def own(folder: Path) -> str | None:
    """The chat template of a Hugging Face directory, in a file of its own or in the config."""
    from anytrain.data.tokenizer import CONFIG
    from anytrain.files import read_json

    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    found: Any = None
    if (folder / CONFIG).is_file():
        found = read_json(folder / CONFIG).get("chat_template")
    return found if isinstance(found, str) else None


def check(tokenizer: Any, base: str) -> None:
    """UserError where the template cannot be rendered or does not learn to end a turn."""
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        found = tokenizer.apply_chat_template(
            probe, return_dict=True, return_assistant_tokens_mask=True
        )
        text = tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception as error:  # jinja's own, and whatever a template raises
        raise UserError(f"{base}: its chat template cannot be rendered: {error}") from error
    pairs = zip(found["input_ids"], found["assistant_masks"], strict=True)
    learnt = [token for token, on in pairs if on]
    if not learnt or learnt[-1] not in set(tokenizer.all_special_ids):
        raise UserError(
            f"{base}: its chat template renders {text!r} and what it marks there ends in no "
            "special token, so a model would not learn to stop; a {% generation %} that holds "
            "the end of turn is valid"
        )
