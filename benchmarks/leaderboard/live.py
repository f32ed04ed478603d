"""What runs, what is left and how long it will take, as a table that follows the runs."""

import time
from collections.abc import Mapping

from rich.table import Table

from benchmarks.leaderboard.jobs import MEASURED, SEARCH, Job, Matrix
from benchmarks.leaderboard.record import Record


class Progress:
    """The state of a matrix.

    Args:
        matrix: What is run.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.started = time.monotonic()
        self.at_start: int | None = None

    def table(self, records: Mapping[Job, Record], submitted: list[Job]) -> Table:
        """A row per task and method.

        Args:
            records: What has ended.
            submitted: What runs, or waits for a free core.
        """
        wanted = set(self.matrix.seeds)
        done = {j: r for j, r in records.items() if j.kind == SEARCH or j.seed in wanted}
        if self.at_start is None:
            self.at_start = len(done)
        table = Table(title=self._title(len(done)), title_justify="left")
        for name in ("task", "method", "search", "measured", "running or next", "failed"):
            table.add_column(name)
        for task in self.matrix.tasks:
            for name, method in self.matrix.methods.items():
                own = {j: r for j, r in done.items() if (j.task, j.method) == (task, name)}
                protocol = self.matrix.protocol
                searches = protocol.tuning.rates * len(protocol.search_seeds) * method.trains
                table.add_row(
                    task,
                    name,
                    f"{sum(j.kind == SEARCH for j in own)}/{searches}",
                    f"{sum(j.kind == MEASURED for j in own)}/{len(wanted)}",
                    str(sum((j.task, j.method) == (task, name) for j in submitted)),
                    str(sum(r["failed"] is not None for r in own.values())),
                )
        return table

    def _title(self, done: int) -> str:
        left = self.matrix.size - done
        made = done - (self.at_start or 0)
        seconds = time.monotonic() - self.started
        eta = duration(seconds / made * left) if made else "unknown"
        return f"{done} of {self.matrix.size} runs, {left} left, {eta if left else '0 s'} to go"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
