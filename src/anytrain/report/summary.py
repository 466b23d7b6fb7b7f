"""The study in Markdown: the answer, the verdicts, the tables, the facts."""

from collections.abc import Sequence

from anytrain.report.sections import Section, Table


def summary(name: str, answer: str, parts: Sequence[Section]) -> str:
    """The page without its charts; their titles are links to the files beside it."""
    out = [f"# {name}", answer]
    for part in parts:
        out.append(f"## {part.title}")
        out += part.paragraphs
        if part.charts:
            out.append(
                "\n".join(f"- [{c.title}](figures/{c.name}.png)" for c in part.charts),
            )
        out += [_table(table) for table in part.tables]
        if part.facts:
            out.append("\n".join(f"- {name}: {value}" for name, value in part.facts.items()))
    return "\n\n".join(out) + "\n"


def _table(table: Table) -> str:
    sides = ["---:" if table.numbers(i) else "---" for i in range(len(table.columns))]
    lines = [f"| {' | '.join(table.columns)} |", f"|{'|'.join(sides)}|"]
    for row in table.rows:
        texts = [
            f"**{cell.text}**" if cell.mark and cell.text else cell.text.replace("|", "\\|")
            for cell in row
        ]
        lines.append(f"| {' | '.join(texts)} |")
    notes = "\n".join(f"- {note}" for note in table.notes)
    return "\n\n".join(part for part in (f"**{table.caption}**", "\n".join(lines), notes) if part)
