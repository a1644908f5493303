"""Pictures of figures, as SVG files that follow the reader's choice of light or dark."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from case import Bars, Plot, Unit, shown_tests
from results import CONTENDERS, CaseResult, Spread

WIDTH = 760
LINES_HEIGHT = 400
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 52, 56
LEGEND_ROW = 20
BAR, BAR_GAP, GROUP_GAP = 18, 4, 8
NAMES_WIDTH = 190

# Each pair is read well on its background: light, dark. The first is ours.
COLOURS = (
    ("#c2410c", "#fb923c"),
    ("#64748b", "#94a3b8"),
    ("#0369a1", "#38bdf8"),
    ("#15803d", "#4ade80"),
    ("#7e22ce", "#c084fc"),
    ("#be185d", "#f472b6"),
)
# A contender has the same colour in every picture of bars.
COLOUR_OF = {"duck-flight": 0, "limit": 1, "seed": 2, "quack": 3, "postgres": 4, "duck-flight-prepared": 5}

STYLE = """
.back { fill: #ffffff; } .ink { fill: #1f2328; } .dim { fill: #59636e; }
.grid { stroke: #d1d9e0; stroke-width: 1; } .whisker { stroke: #1f2328; stroke-width: 1.2; opacity: .65; }
text { font: 12px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; } .title { font-size: 15px; font-weight: 600; }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; } .ink { fill: #e6edf3; } .dim { fill: #9198a1; }
.grid { stroke: #3d444d; } .whisker { stroke: #e6edf3; }
"""


def style() -> str:
    light = "".join(
        f".f{number} {{ fill: {colour}; }} .s{number} {{ stroke: {colour}; fill: none; stroke-width: 2.2; }} "
        for number, (colour, _) in enumerate(COLOURS)
    )
    dark = "".join(
        f".f{number} {{ fill: {colour}; }} .s{number} {{ stroke: {colour}; }} "
        for number, (_, colour) in enumerate(COLOURS)
    )
    return f"<style>{light}{STYLE}{dark}}}</style>"


def draw(plot: Plot | Bars, result: CaseResult) -> str | None:
    """The picture; None where nothing of it was measured."""
    return draw_lines(plot, result) if isinstance(plot, Plot) else draw_bars(plot, result)


def text(x: float, y: float, words: str, classes: str = "ink", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def picture(title: str, height: float, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img">',
            f"<title>{escape(title)}</title>",
            style(),
            f'<rect class="back" width="{WIDTH}" height="{height:.0f}" rx="8"/>',
            text(16, 26, title, "ink title"),
            *parts,
            "</svg>\n",
        ]
    )


@dataclass(frozen=True)
class Scale:
    """Where a value stands between two places of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self._of(self.low)) / ((self._of(self.high) - self._of(self.low)) or 1)
        return self.start + share * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        return nice_ticks(self.high)


def nice_ticks(high: float) -> list[float]:
    """Four to eight round values from 0 up to at least `high`."""
    rough = high / 5
    power = 10 ** math.floor(math.log10(rough))
    stride = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [stride * number for number in range(math.ceil(high / stride - 1e-9) + 1)]


def tick_label(value: float) -> str:
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def values_scale(spreads: list[Spread], log: bool, start: float, end: float) -> Scale:
    most = max(spread.most for spread in spreads)
    if log:
        low, high = (math.floor(math.log10(min(s.least for s in spreads))), math.ceil(math.log10(most)))
        return Scale(10.0**low, 10.0 ** max(high, low + 1), start, end, log=True)
    return Scale(0, nice_ticks(most)[-1], start, end)


def draw_lines(plot: Plot, result: CaseResult) -> str | None:
    lines = []
    for series in plot.series:
        points = [
            (place, spread)
            for test in result.figures
            if (place := series.place(test)) is not None
            and (spread := result.spread(test, series.contender, series.metric))
        ]
        if points:
            lines.append((series.label, sorted(points, key=lambda point: point[0])))
    if not lines:
        return None
    places = sorted({place for _, points in lines for place, _ in points})
    top = TOP + LEGEND_ROW
    across = Scale(places[0], places[-1], LEFT + 12, WIDTH - RIGHT - 12, log=True)
    up = values_scale(
        [spread for _, points in lines for _, spread in points], False, LINES_HEIGHT - BOTTOM, top
    )
    parts = [*grid_up(up), *legend([label for label, _ in lines], TOP)]
    parts += [text(across(place), LINES_HEIGHT - BOTTOM + 18, f"{place:,.0f}", "dim", "middle") for place in places]
    parts += [
        text((LEFT + WIDTH - RIGHT) / 2, LINES_HEIGHT - 14, plot.axis, "dim", "middle"),
        text(16, top - 14, plot.unit.axis, "dim"),
    ]
    for number, (_, points) in enumerate(lines):
        path = " ".join(f"{across(place):.1f},{up(spread.median):.1f}" for place, spread in points)
        parts.append(f'<polyline points="{path}" class="s{number}"/>')
        for place, spread in points:
            parts.append(line(across(place), up(spread.least), across(place), up(spread.most), "whisker"))
            parts.append(f'<circle cx="{across(place):.1f}" cy="{up(spread.median):.1f}" r="3.5" class="f{number}"/>')
    return picture(plot.title, LINES_HEIGHT, parts)


def grid_up(up: Scale) -> list[str]:
    parts = []
    for tick in up.ticks():
        parts += [
            line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "grid"),
            text(LEFT - 8, up(tick) + 4, tick_label(tick), "dim", "end"),
        ]
    return parts


def legend(labels: list[str], y: float) -> list[str]:
    parts, x = [], LEFT
    for number, label in enumerate(labels):
        parts += [
            f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" class="f{number}"/>',
            text(x + 18, y, label),
        ]
        x += 34 + 7 * len(label)
    return parts


def draw_bars(plot: Bars, result: CaseResult) -> str | None:
    """Bars that lie, with the figure at the end of each and the least and the most of all turns across it."""
    groups = []
    for test in shown_tests(plot, result.figures):
        bars = [(name, spread) for name in plot.contenders if (spread := result.spread(test, name, plot.metric))]
        if bars:
            groups.append((plot.label(test), bars))
    if not groups:
        return None
    scale = values_scale(
        [spread for _, bars in groups for _, spread in bars], plot.log_scale, NAMES_WIDTH, WIDTH - RIGHT - 70
    )
    parts, y = [], TOP
    for label, bars in groups:
        parts.append(text(16, y + BAR - 6, label))
        y += BAR + BAR_GAP
        for name, spread in bars:
            parts += bar(name, spread, y, scale, plot.unit)
            y += BAR + BAR_GAP
        y += GROUP_GAP
    note = f"{plot.unit.axis}{', logarithmic' if plot.log_scale else ''}; bars: medians, whiskers: least and most"
    parts.append(text(16, y + 10, note, "dim"))
    return picture(plot.title, y + 24, parts)


def bar(name: str, spread: Spread, y: float, scale: Scale, unit: Unit) -> list[str]:
    number = COLOUR_OF[name]
    middle = y + BAR / 2
    end = scale(spread.median)
    length = max(1, end - NAMES_WIDTH)
    figure_at = max(end, scale(spread.most)) + 6
    return [
        text(NAMES_WIDTH - 8, y + BAR - 4, CONTENDERS[name], "dim", "end"),
        f'<rect x="{NAMES_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" class="f{number}"/>',
        line(scale(spread.least), middle, scale(spread.most), middle, "whisker"),
        text(figure_at, y + BAR - 4, unit.show(spread.median)),
    ]
