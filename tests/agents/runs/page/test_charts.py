"""Where the parts of charts lie, by hand-worked cases."""

import math
import re

import pytest

from agents.runs.page.charts import BOTTOM, LEFT, RIGHT, TOP, Chart, credit_chart, reward_chart

WIDTH, HEIGHT = LEFT + RIGHT + 400, TOP + BOTTOM + 200


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def labels(ticks: list) -> list[str]:  # type: ignore[type-arg]
    return [tick.label for tick in ticks]


def test_rewards_lie_where_their_values_say() -> None:
    training = [(100.0, 0.0), (200.0, 1.5), (400.0, 3.0)]
    chart = reward_chart(training, [(0.0, 0.75), (400.0, 2.25)], WIDTH, HEIGHT)
    assert labels(chart.x_ticks)[0] == "0"
    assert labels(chart.x_ticks)[-1] == "400"
    assert labels(chart.y_ticks) == ["0", "1", "2", "3"]
    line, held_out = chart.lines
    # 400 pixels for 400 images, 200 pixels for a reward of 3, from below.
    bottom = HEIGHT - BOTTOM
    assert places(line.path) == [(LEFT + x, bottom - 200 * y / 3) for x, y in training]
    assert places(held_out.path) == [(LEFT, bottom - 50), (LEFT + 400, bottom - 150)]
    assert [(point.x, point.y) for point in chart.points] == places(held_out.path)
    assert chart.points[1].text == "2.250 after 400 images"


def test_what_could_not_be_measured_is_a_gap() -> None:
    training = [(1.0, 0.0), (2.0, math.nan), (3.0, 1.0), (4.0, 0.5)]
    chart = reward_chart(training, [(0.0, math.nan)], WIDTH, HEIGHT)
    assert re.sub(r"[\d. -]+", "", chart.lines[0].path) == "MML"
    assert chart.points == []
    nothing = reward_chart([(1.0, math.nan)], [(0.0, math.nan)], WIDTH, HEIGHT)
    assert nothing.lines[0].path == ""


@pytest.mark.parametrize("value", [0.0, 1e-12, -3.7, 1e9])
def test_rewards_that_never_change(value: float) -> None:
    chart = reward_chart([(4.0, value), (8.0, value)], [(0.0, value)], WIDTH, HEIGHT)
    inside(chart)


def test_long_runs_are_thinned_out() -> None:
    training = [(float(k), math.sin(k)) for k in range(5000)]
    chart = reward_chart(training, [(0.0, 0.0)], WIDTH, HEIGHT)
    assert len(places(chart.lines[0].path)) <= 402
    assert places(chart.lines[0].path)[-1][0] == pytest.approx(LEFT + 400 * 4999 / 5000, abs=0.1)
    inside(chart)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 1000])
def test_credit_is_a_bar_for_every_step(steps: int) -> None:
    shares = [(k + 1) * 2 / (steps * (steps + 1)) for k in range(steps)]
    chart = credit_chart(shares, WIDTH, HEIGHT)
    assert len(chart.bars) == steps
    heights = [bar.height for bar in chart.bars]
    for height, share in zip(heights, shares, strict=True):
        assert height == pytest.approx(heights[-1] * share / shares[-1], abs=0.2)
    (start, level), (end, other) = places(chart.lines[0].path)
    assert level == other
    assert (start, end) == (LEFT, LEFT + 400)
    bottom = HEIGHT - BOTTOM
    uniform = (bottom - level) / heights[-1]
    assert uniform == pytest.approx(1 / steps / shares[-1], abs=0.02)
    assert labels(chart.x_ticks)[0] == "0"
    inside(chart)


def test_credit_against_the_return() -> None:
    chart = credit_chart([-0.5, 1.5], WIDTH, HEIGHT)
    below, above = chart.bars
    assert below.y == above.y + above.height
    assert 3 * below.height == pytest.approx(above.height, abs=0.3)


def inside(chart: Chart) -> None:
    for line in chart.lines:
        for x, y in places(line.path):
            assert LEFT <= x <= chart.right
            assert TOP <= y <= chart.bottom
    for tick in chart.y_ticks:
        assert TOP <= tick.at <= chart.bottom
    for tick in chart.x_ticks:
        assert LEFT <= tick.at <= chart.right
