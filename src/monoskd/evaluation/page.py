"""An evaluation as a page: one HTML file, its curves drawn in SVG, nothing fetched."""

from collections.abc import Iterator
from html import escape
from itertools import groupby
from operator import itemgetter

import numpy as np

from monoskd.evaluation.curves import POINTS
from monoskd.evaluation.results import DIFFICULTIES, Evaluation, Result
from monoskd.evaluation.scene import Float
from monoskd.evaluation.wording import LABEL_COLUMNS, METRICS, Sheet, sheets

WIDTH, HEIGHT = 240, 180  # of a plot's axes [SVG units]
MARGIN = 34
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)

STYLE = """
:root { --ink: #1d1d1f; --faint: #6e6e73; --line: #d9d9de; --paper: #fff;
  --easy: #0072b2; --moderate: #d55e00; --hard: #7b3294; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --faint: #a0a0a8; --line: #3c3c44; --paper: #18181b;
  --easy: #56b4e9; --moderate: #e69f00; --hard: #cc99dd; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; }
th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--line); }
.label { text-align: left; }
tbody tr:first-child td { border-top: 1px solid var(--line); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; }
svg { width: 100%; height: auto; } svg text { font-size: 10px; fill: var(--faint); }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 1.8; }
.easy { stroke: var(--easy); } .moderate { stroke: var(--moderate); } .hard { stroke: var(--hard); }
.key { display: inline-block; width: 1.2rem; border-top: 3px solid; margin: 0 .3rem .25rem 1rem; }
.key.easy { border-color: var(--easy); } .key.moderate { border-color: var(--moderate); }
.key.hard { border-color: var(--hard); }
.note { color: var(--faint); }
"""


def page(evaluation: Evaluation) -> str:
    """The whole page."""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in evaluation.notes)
    tables = "".join(_table(sheet) for sheet in sheets(evaluation))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>KITTI evaluation, {evaluation.frames} frames</title><style>{STYLE}</style></head><body>"
        f"<h1>KITTI evaluation</h1>{notes}{tables}{''.join(_curves(evaluation))}</body></html>\n"
    )


def _table(sheet: Sheet) -> str:
    def cells(tag: str, row: tuple[str, ...]) -> str:
        kinds = [' class="label"' if index < LABEL_COLUMNS else "" for index in range(len(row))]
        return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, row, strict=True))

    bodies = ""
    for _, rows in groupby(sheet.rows, key=itemgetter(0)):
        lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
        bodies += f"<tbody>{lines}</tbody>"
    heading = f"<h2>{escape(sheet.title)}</h2>"
    return (
        f'{heading}<div class="wide"><table><thead><tr>{cells("th", sheet.columns)}</tr></thead>{bodies}</table></div>'
    )


def _curves(evaluation: Evaluation) -> Iterator[str]:
    """A row of plots for each class."""
    keys = "".join(f'<span class="key {name}"></span>{name}' for name in DIFFICULTIES)
    yield f"<h2>Precision (for orientation: similarity) over recall</h2><p>{keys}</p>"
    for class_name in dict.fromkeys(result.class_name for result in evaluation.results):
        plots = "".join(_plot(result) for result in evaluation.results if result.class_name == class_name)
        yield f'<h2>{escape(class_name)}</h2><div class="plots">{plots}</div>'


def _plot(result: Result) -> str:
    """Three curves in one square, one for each difficulty."""
    caption = f"{METRICS[result.metric]}, overlap &gt; {result.least_overlap:g}"
    ap = result.average_precision()
    lines = "".join(
        f'<polyline class="curve {name}" points="{_points(curve)}"><title>{name} {ap[name]:.2f}</title></polyline>'
        for name, curve in zip(DIFFICULTIES, result.curves, strict=True)
    )
    frame = f"{-MARGIN} -8 {WIDTH + MARGIN + 8} {HEIGHT + MARGIN}"
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="{frame}" role="img" aria-label="{caption}">'
        f"{_axes()}{lines}</svg></figure>"
    )


def _axes() -> str:
    lines = []
    for tick in TICKS:
        x, y = tick * WIDTH, (1 - tick) * HEIGHT
        lines.append(f'<path class="grid" d="M{x:g} 0V{HEIGHT}M0 {y:g}H{WIDTH}"/>')
        lines.append(f'<text x="{x:g}" y="{HEIGHT + 14}" text-anchor="middle">{tick:g}</text>')
        lines.append(f'<text x="-6" y="{y + 3:g}" text-anchor="end">{tick:g}</text>')
    return "".join(lines)


def _points(curve: Float) -> str:
    """The curve's corners in the plot; points without a value are passed over."""
    there = np.flatnonzero(~np.isnan(curve))
    x, y = there / (POINTS - 1) * WIDTH, (1 - curve[there]) * HEIGHT
    return " ".join(f"{u:.1f},{v:.1f}" for u, v in zip(x, y, strict=True))
