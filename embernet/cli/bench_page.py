"""The report of `embernet bench`: one HTML page that needs nothing else, neither a network nor a script."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from embernet import __version__
from embernet.cli.bench_rows import (
    START_STAGES,
    Result,
    Row,
    board_rows,
    difference_rows,
    format_figure,
    memory_rows,
    reservations,
    stage_rows,
    start_rows,
    workload,
)
from embernet.device.comparison import compare, compare_conditions
from embernet.plots.bench import plot_latency, plot_peaks, plot_stage_memory, plot_starts, plot_tokens
from embernet.plots.figure import Figure
from embernet.plots.inline_svg import inline_svg, page_style

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d9dee4; --card: #f5f7f9;
  --good: #0b6b43; --good-ground: #e3f4ec; --bad: #a1201a; --bad-ground: #fce9e7;
  --unsure: #6b4e00; --unsure-ground: #fdf3d7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --line: #333a42; --card: #1d2126;
    --good: #7fdcb0; --good-ground: #12301f; --bad: #ffb1aa; --bad-ground: #401512;
    --unsure: #f2d184; --unsure-ground: #352a0a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 0.75rem; overflow-wrap: anywhere; }
p { margin: 0.25rem 0; overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; }
.soft, figcaption small { color: var(--soft); }
.banner { margin: 0.75rem 0; padding: 0.6rem 0.9rem; border-radius: 0.5rem; }
.good { color: var(--good); background: var(--good-ground); }
.bad { color: var(--bad); background: var(--bad-ground); font-weight: 600; }
.unsure { color: var(--unsure); background: var(--unsure-ground); }
.cards, .figures { display: grid; gap: 0.75rem; margin: 1rem 0; }
.cards { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.figures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); align-items: start; }
.cards div, figure {
  background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.7rem 0.9rem;
}
.cards strong { display: block; font-size: 1.35rem; line-height: 1.3; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 0.4rem; }
figcaption small { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.35rem 0.9rem 0.35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); white-space: nowrap; vertical-align: top; }
td { overflow-wrap: anywhere; }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.facts th { width: 11rem; }
@media (max-width: 32rem) {
  table { font-size: 0.875rem; }
  th, td { padding-right: 0.6rem; }
  .facts th { width: 7rem; white-space: normal; }
}
.better { color: var(--good); }
.worse { color: var(--bad); }
"""
_MEDIANS = "bar and figure: median; line: to the 90th percentile"
# Nothing is loaded, and no script runs, whatever a name says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def report_page(now: Result, before: tuple[str, Result] | None = None) -> str:
    """The page about a result, compared with another one, whose name is given, if there is one."""
    name = escape(now["model"]["name"])
    with page_style():
        compared = () if before is None else _comparison(now, *before)
        body = "\n".join([*_head(now), *compared, *_figures(now, before is None), *_tables(now)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>embernet bench: {name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
<footer class="soft">Written by embernet {escape(__version__)}. The median is the middle sample, p90 the 90th
percentile; docs/benchmarking.md defines every figure.</footer>
</main>
</body>
</html>
"""


def _head(now: Result) -> Iterator[str]:
    yield f"<h1>{escape(now['model']['name'])} on {escape(now['cpu_info'] or 'an unknown processor')}</h1>"
    when = f"; measured {escape(now['test_time'])}" if now["test_time"] else ""
    engine = f"threads {now['n_threads']}, kernels {escape(now['kernel'])}"
    yield f'<p class="soft">{escape(workload(now))}; {engine}{when}</p>'
    for line in reservations(now):
        yield _banner("bad", line)
    if now["valid"] is None:
        yield _banner("unsure", "Written by an older embernet: whether the board throttled or swapped is not known.")
    elif now["valid"] and (now["throttled"] is None or now["throttled"]["now"] is None):
        yield _banner("unsure", "Valid as far as can be told: this machine does not say whether it throttles.")
    elif now["valid"]:
        yield _banner("good", "Valid: the board did not throttle, and memory was not short.")
    cards = (
        (format_figure(now["decode_tokens_per_second"], "ts"), "decode"),
        (format_figure(now["time_to_first_token_ms"], "ms"), "to the first token"),
        (format_figure(now["prefill_tokens_per_second"], "ts"), "prefill"),
        (format_figure(now["peak_rss_bytes"], "bytes"), "resident at most"),
    )
    yield '<div class="cards">'
    yield from (f"<div><strong>{escape(value)}</strong>{escape(label)}</div>" for value, label in cards)
    yield "</div>"


def _figures(now: Result, with_latency: bool) -> Iterator[str]:
    """with_latency: False where the comparison shows it."""
    figures = (
        ("latency", "Time of each stage", _MEDIANS, plot_latency(now) if with_latency else None),
        (
            "tokens",
            "Tokens as the run went on",
            "a line for each round",
            plot_tokens(now),
        ),
        ("memory", "Memory after each stage", "the most of all rounds", plot_stage_memory(now)),
        ("start", "A fresh process", "from its start to the first token", plot_starts(now, START_STAGES)),
    )
    yield "<h2>Figures</h2>"
    yield from _figure_grid(figures)


def _figure_grid(figures: Iterable[tuple[str, str, str, Figure | None]]) -> Iterator[str]:
    yield '<div class="figures">'
    for name, title, note, figure in figures:
        if figure is not None:
            caption = f"<figcaption>{escape(title)} <small>{escape(note)}</small></figcaption>"
            yield f"<figure>{caption}\n{inline_svg(figure, name)}</figure>"
    yield "</div>"


def _tables(now: Result) -> Iterator[str]:
    yield "<h2>Times</h2>"
    yield _table(("stage", "median", "p90", "rate"), stage_rows(now))
    yield from _list("Memory", memory_rows(now))
    yield from _list("Start", start_rows(now))
    yield from _list("Board", board_rows(now))
    versions = ", ".join(f"{name} {version}" for name, version in (now["versions"] or {}).items())
    parameters = "unknown" if now["model_n_params"] is None else f"{now['model_n_params']:,}"
    conditions = [
        ("model", now["model"]["name"]),
        ("sha256", now["model"]["sha256"]),
        ("size", f"{format_figure(now['model_size'], 'bytes')}, {parameters} parameters"),
        ("processor", now["cpu_info"] or "unknown"),
        ("image", now["image_path"] or "made in memory"),
        ("huge pages", "yes" if now["hugepages"] else "no"),
        ("spinning threads", "yes" if now["spin"] else "no"),
        ("versions", versions or "unknown"),
    ]
    yield from _list("Conditions", conditions)


def _comparison(now: Result, name: str, before: Result) -> Iterator[str]:
    yield f"<h2>Compared with {escape(name)}</h2>"
    yield from (_banner("unsure", warning) for warning in compare_conditions(now, before))
    differences = compare(now, before)
    yield _table(("metric", "now", "before", "now / before", ""), difference_rows(differences))
    figures = (
        ("latency-both", "Time of each stage", _MEDIANS, plot_latency(now, before)),
        ("peaks-both", "Memory at its peak", "", plot_peaks(now, before)),
    )
    yield from _figure_grid(figures)


def _banner(kind: str, text: str) -> str:
    return f'<p class="banner {kind}">{escape(text)}</p>'


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Numbers in columns; a verdict in the last one has its color."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    lines = []
    for first, *others in rows:
        cells = "".join(
            f'<td class="{cell}">{cell}</td>' if cell in ("better", "worse") else f"<td>{escape(cell)}</td>"
            for cell in others
        )
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return _scroll(f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>')


def _list(title: str, rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        lines = "\n".join(
            f'<tr><th scope="row">{escape(label)}</th><td>{escape(value)}</td></tr>' for label, value in rows
        )
        yield f"<h2>{escape(title)}</h2>"
        yield _scroll(f'<table class="facts"><tbody>\n{lines}\n</tbody></table>')


def _scroll(table: str) -> str:
    """On a phone a table is moved sideways, not the page."""
    return f'<div class="scroll">{table}</div>'
