"""What a person sees while a run is under way."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from stable_baselines3.common.logger import KVWriter

BARS = "▁▂▃▄▅▆▇█"
TREND_LENGTH = 40
UNKNOWN_TIME = "-:--:--"

SHOWN: Mapping[str, tuple[str, str]] = {
    "train/clip_fraction": ("clipped", "{:.0%} of steps"),
    "train/approx_kl": ("KL per update", "{:.2e}"),
    "train/old_deviation": ("moved in the round", "{:.2e}"),
    "train/gradient_norm": ("gradient norm", "{:.3f}"),
    "time/images_per_second": ("speed", "{:.1f} images/s"),
    "count/denoiser_evaluations": ("denoiser evaluations", "{:,}"),
}
"""Figures of a round, of those that the agent has: how they are called and written."""


class LiveView(KVWriter):
    """Stable-Baselines3 logger output: a live table on a terminal, a line per round elsewhere.

    Args:
        console: Where to draw.
        images: Images of the whole run.
        done: Images drawn before a resumption.
        rewards: Mean rewards of the rounds until then.
    """

    def __init__(
        self, console: Console, images: int, done: int = 0, rewards: Sequence[float] = ()
    ) -> None:
        self.console = console
        self.rewards = list(rewards)
        self.progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images, left: [cyan]{task.fields[left]}"),
            console=console,
        )
        self.done = done
        self.task = self.progress.add_task(
            "training", start=False, total=images, completed=done, left=UNKNOWN_TIME
        )
        self.live = Live(self.progress, console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveView":
        self.progress.start_task(self.task)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        """Shows a round."""
        del key_excluded
        self.rewards.append(key_values["rollout/reward_mean"])
        self.progress.update(self.task, completed=step, left=self._time_left(step))
        if self.console.is_terminal:
            self.live.update(Group(self.progress, self._table(key_values)), refresh=True)
        else:
            self.console.print(
                f"round {key_values['count/rounds']:4d}  {step:6d} images  "
                f"reward {self.rewards[-1]:.4f}  {_clipped(key_values)}"
                f"{key_values['time/images_per_second']:.1f} images/s",
                highlight=False,
            )

    def _time_left(self, images: int) -> str:
        """As long for each image as until now: rich's own looks back 30 s, a round takes longer."""
        task = self.progress.tasks[0]
        drawn = images - self.done
        if not drawn or task.elapsed is None or task.total is None:
            return UNKNOWN_TIME
        return str(timedelta(seconds=round((task.total - images) * task.elapsed / drawn)))

    def _table(self, values: dict[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        trend = sparkline(self.rewards[-TREND_LENGTH:])
        table.add_row("[dim]reward", f"{self.rewards[-1]:.4f}   {trend}")
        for name, (label, form) in SHOWN.items():
            value = values.get(name)
            if value is not None and not math.isnan(value):
                table.add_row(f"[dim]{label}", form.format(value))
        return table

    def close(self) -> None:
        """The view ends with its ``with`` block."""


def _clipped(values: dict[str, Any]) -> str:
    """The share of clipped ratios in a line, where the loss has ratios."""
    share = values.get("train/clip_fraction", math.nan)
    return "" if math.isnan(share) else f"clipped {share:.2f}  "


def sparkline(values: list[float]) -> str:
    """Numbers as a row of bars, from the lowest to the highest of them."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)
