"""Writes the table of datasets in docs/data.md from the registry: `python -m tests.data_reference`."""

from pathlib import Path

from embernet.data.registry import DATASETS, GROUPS, group, total_size_gb

PAGE = Path(__file__).parent.parent / "docs" / "data.md"
BEGIN, END = "<!-- from the registry: python -m tests.data_reference -->\n", "<!-- end -->\n"


def reference() -> str:
    """The tables of datasets and of groups."""
    lines = [
        "| dataset | on the hub | stage | for | samples | GB | priority | licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in DATASETS.values():
        places = ", ".join(f"`{files.repository}`" for files in entry.downloads)
        use = "projector" if entry.expert is None else f"expert {entry.expert}, `{entry.domain}`"
        marks = ("¹" if entry.separate_images else "") + ("²" if entry.dropped else "") + ("³" if entry.added else "")
        lines.append(
            f"| `{entry.key}`{marks} | {places} | {entry.stage} | {use} | {entry.samples:,} | {entry.size_gb:g} "
            f"| {entry.priority} | {entry.licence} |"
        )
    lines += ["", "| group | datasets | GB |", "|---|---|---|"]
    lines += [f"| `--{name}` | {len(group(name))} | {total_size_gb(group(name)):g} |" for name in GROUPS]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the tables of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + reference() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
