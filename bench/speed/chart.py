"""The chart: a panel of bars for each comparison, as SVG without any help."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from .figures import Bars

WIDTH, LABEL, BAR, GAP, HEAD = 860, 270, 20, 6, 44
OURS, THEIRS, MARK = "#1f7a8c", "#9aa5b1", "#c0392b"
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:14px}.s{font-size:12px;fill:#555}"


def _panel(bars: Bars, top: int) -> tuple[list[str], int]:
    room = WIDTH - LABEL - 90
    most = max([value for _, value in bars.values] + [bars.goal or 0]) or 1
    height = HEAD + len(bars.values) * (BAR + GAP)
    better = "shorter is better" if bars.less_is_better else "longer is better"
    parts = [f'<text class="t" x="10" y="{top + 20}">{escape(bars.title)}</text>', f'<text class="s" x="10" y="{top + 36}">{better}</text>']
    for number, (name, value) in enumerate(bars.values):
        y, width = top + HEAD + number * (BAR + GAP), max(2, round(room * value / most))
        colour = OURS if name.startswith("tinyp2p") else THEIRS
        parts.append(f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width}" height="{BAR}" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + width + 6}" y="{y + 15}">{value:.2f} {escape(bars.unit)}</text>')
    if bars.goal is not None:
        x = LABEL + round(room * bars.goal / most)
        parts.append(f'<path d="M{x} {top + HEAD - 6}V{top + height}" stroke="{MARK}" stroke-width="2" stroke-dasharray="5 3"/>')
        word = "at most" if bars.less_is_better else "at least"
        parts.append(f'<text class="s" x="{x}" y="{top + HEAD - 10}" text-anchor="middle">goal: {word} {bars.goal:g}</text>')
    return parts, height + 18


def svg(panels: Sequence[Bars]) -> str:
    parts: list[str] = []
    top = 4
    for bars in panels:
        if bars.values:
            drawn, height = _panel(bars, top)
            parts += drawn
            top += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img">'
    return "\n".join(
        [
            head,
            "<title>tinyp2p beside other programs</title>",
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )
