"""What a person sees while a run is under way."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from stable_baselines3.common.logger import KVWriter

BARS = "▁▂▃▄▅▆▇█"
TREND_LENGTH = 40


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
            TextColumn("images, left:"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.progress.add_task("training", total=images, completed=done)
        self.live = Live(self.progress, console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveView":
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
        self.progress.update(self.task, completed=step)
        if self.console.is_terminal:
            self.live.update(Group(self.progress, self._table(key_values)), refresh=True)
        else:
            self.console.print(
                f"round {key_values['count/rounds']:4d}  {step:6d} images  "
                f"reward {self.rewards[-1]:.4f}  clipped {key_values['train/clip_fraction']:.2f}  "
                f"{key_values['time/images_per_second']:.1f} images/s",
                highlight=False,
            )

    def _table(self, values: dict[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        rows = [
            ("reward", f"{self.rewards[-1]:.4f}   {sparkline(self.rewards[-TREND_LENGTH:])}"),
            ("clipped", f"{values['train/clip_fraction']:.0%} of steps"),
            ("KL per update", f"{values['train/approx_kl']:.2e}"),
            ("gradient norm", f"{values['train/gradient_norm']:.3f}"),
            ("speed", f"{values['time/images_per_second']:.1f} images/s"),
            ("denoiser evaluations", f"{values['count/denoiser_evaluations']:,}"),
        ]
        for name, value in rows:
            table.add_row(f"[dim]{name}", value)
        return table

    def close(self) -> None:
        """The view ends with its ``with`` block."""


def sparkline(values: list[float]) -> str:
    """Numbers as a row of bars, from the lowest to the highest of them."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)
