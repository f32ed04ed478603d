"""Writes a run's page of HTML anew, or so far: ``python -m agents.report RUN``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from agents.files import file_to_write
from agents.runs import cli
from agents.runs.page import write_page
from agents.runs.run_folder import RunFolder
from agents.runs.screen import Screen, say
from diffusion_gym.checks import Checked


@dataclass(frozen=True)
class ReportOptions(Checked):
    """Which run, and where to."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder of agents.train."""

    output: str | None = None
    """File to write; by default report.html in the run folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page from the files in a run's folder, of a run that has not ended as well."""
    options = cli.parse(
        ReportOptions, arguments, command="python -m agents.report", description=__doc__
    )
    run = RunFolder.open(options.run)
    file = file_to_write(str(run.report_file) if options.output is None else options.output)
    write_page(run, file)
    say(Screen(), f"{file.stat().st_size / 1e3:.0f} kB: {file}")
    return 0


if __name__ == "__main__":
    cli.run(main)
