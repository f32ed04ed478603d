"""Where the parts of a chart lie, for the page's template to draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 10.0, 44.0
"""Room around the plot, in the chart's own units, which are CSS pixels at full size."""

POINTS = 400
"""Most points of a line: there are no more pixels."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point or a bar: left, top, width, height, and what it says when it is pointed at."""

    x: float
    y: float
    text: str
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Line:
    """A curve: its class in the style sheet, and its path as SVG has it."""

    name: str
    path: str


@dataclass
class Chart:
    """A chart of some size.

    Attributes:
        width: Of all.
        height: Of all.
        x_label: What lies along the horizontal axis.
        y_label: What lies along the vertical one.
        x_ticks: Marks of the first.
        y_ticks: Marks of the other.
        lines: Curves.
        points: Marks of single values.
        bars: Bars.
    """

    width: float
    height: float
    x_label: str
    y_label: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    points: list[Mark] = field(default_factory=list)
    bars: list[Mark] = field(default_factory=list)

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        """Where the plot ends below."""
        return self.height - BOTTOM


@dataclass(frozen=True)
class Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def reward_chart(
    training: Sequence[tuple[float, float]],
    held_out: Sequence[tuple[float, float]],
    width: float,
    height: float,
) -> Chart:
    """Rewards against images drawn: the rounds as a line, the evaluations as points.

    Args:
        training: Images and mean reward of every round.
        held_out: Images and mean reward of every evaluation.
        width: Of the chart.
        height: Of the chart.
    """
    chart = Chart(width, height, "images drawn (reward queries)", "reward")
    both = [*training, *held_out]
    values = [reward for _, reward in both if math.isfinite(reward)] or [0.0]
    x_ticks = _nice(0.0, max([images for images, _ in both], default=1.0), width)
    y_ticks = _nice(min(values), max(values), height)
    x, y = _scales(chart, (0.0, x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    chart.x_ticks = [Tick(x(value), f"{value:,.0f}") for value in x_ticks if value == int(value)]
    chart.y_ticks = [Tick(y(value), f"{value:.6g}") for value in y_ticks]
    step = -(-len(training) // POINTS) or 1
    shown = [*training[:-1:step], *training[-1:]]
    chart.lines = [
        Line("training", _path(shown, x, y)),
        Line("held-out", _path(held_out, x, y)),
    ]
    chart.points = [
        Mark(x(images), y(reward), f"{reward:.3f} after {images:,.0f} images")
        for images, reward in held_out
        if math.isfinite(reward)
    ]
    return chart


def credit_chart(shares: Sequence[float], width: float, height: float) -> Chart:
    """A bar for every denoising step's share of the return, and a line where all are equal.

    Args:
        shares: ``[T]``, from the noisiest step on.
        width: Of the chart.
        height: Of the chart.
    """
    chart = Chart(width, height, "denoising step, the noisiest first", "share of the return")
    y_ticks = _nice(min(0.0, *shares), max(shares), height)
    steps = len(shares)
    x, y = _scales(chart, (0.0, steps), (y_ticks[0], y_ticks[-1]))
    chart.y_ticks = [Tick(y(value), f"{value:.6g}") for value in y_ticks]
    labelled = [int(v) for v in _nice(0, steps - 1, width) if v == int(v) and 0 <= v < steps]
    chart.x_ticks = [Tick(x(step + 0.5), str(step)) for step in labelled]
    gap = 0.15 if steps < 100 else 0.0
    for step, share in enumerate(shares):
        top, foot = sorted((y(share), y(0.0)))
        left, right = x(step + gap), x(step + 1 - gap)
        text = f"step {step}: {share:.3f}"
        bar = Mark(left, top, text, width=round(right - left, 1), height=round(foot - top, 1))
        chart.bars.append(bar)
    chart.lines = [Line("uniform", _path([(0.0, 1 / steps), (steps, 1 / steps)], x, y))]
    return chart


def _scales(
    chart: Chart, horizontal: tuple[float, float], vertical: tuple[float, float]
) -> tuple[Scale, Scale]:
    return (
        Scale(*horizontal, LEFT, chart.right),
        Scale(*vertical, chart.bottom, TOP),
    )


def _nice(low: float, high: float, room: float) -> list[float]:
    """Round numbers from below the least value to above the greatest."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    ticks = MaxNLocator(nbins=max(3, int(room / 70))).tick_values(low, high)
    return [float(f"{tick:.12g}") for tick in ticks]


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """A line through points, with gaps where there is no value."""
    words, pen = [], "M"
    for across, up in points:
        if math.isfinite(up):
            words.append(f"{pen}{x(across):g} {y(up):g}")
            pen = "L"
        else:
            pen = "M"
    return "".join(words)
