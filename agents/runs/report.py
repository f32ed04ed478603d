"""The end of a run: its table, its pictures, its figures in a file."""

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.evaluation.evaluation import (
    Evaluation,
    PairedDifference,
    mean,
    paired_difference,
    pairs,
)
from agents.evaluation.image_metrics import Array
from agents.evaluation.pictures import before_after, credit_per_step, reward_curve
from agents.runs.comparison import comparison_sections, left_out, shortcomings
from agents.runs.page import write_page
from agents.runs.run_folder import RunFolder, training_seconds, write_json
from agents.runs.screen import command, plain, say


def comparison_table(before: Evaluation, after: Evaluation, reward: str, title: str) -> Table:
    """Everything measured, before and after, with 95% intervals of the paired differences.

    First the reward and its terms, then other rewards, the diversity of
    each prompt's images and the KL divergence to the base model.
    """
    table = Table(title=plain(title), title_justify="left")
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    table.add_column("difference, 95% interval", justify="right")
    for section in comparison_sections(before, after, reward):
        rows = iter(section.rows)
        if section.heading is None:
            name, *cells = next(rows)
            table.add_row(plain(name), *cells, style="bold")
        else:
            table.add_section()
            table.add_row(section.heading, style="bold")
        for name, *cells in rows:
            table.add_row(plain(f"  {name}"), *cells, style="dim")
    return table


def print_comparison(
    console: Console, before: Evaluation, after: Evaluation, reward: str, title: str
) -> None:
    """Prints the table of two evaluations, and what it lacks."""
    console.print(comparison_table(before, after, reward, title))
    for sentence in shortcomings(before, after):
        say(console, sentence, style="dim")


def print_measured(console: Console, evaluation: Evaluation, reward: str, title: str) -> None:
    """Prints the table of one evaluation, with 95% intervals over prompts, and what it lacks."""
    table = Table(title=plain(title), title_justify="left")
    table.add_column("")
    table.add_column("mean, 95% interval", justify="right")
    for number, (name, values) in enumerate(_columns(evaluation, reward).items()):
        style = "bold" if number == 0 else "dim"
        table.add_row(plain(name), str(mean_interval(values)).removeprefix("+"), style=style)
    console.print(table)
    if failures := evaluation.failures():
        say(console, failures, style="dim")
    for sentence in left_out(evaluation):
        say(console, sentence, style="dim")


def measured(evaluation: Evaluation, reward: str) -> dict[str, Any]:
    """The figures of one evaluation, for JSON files; None where nothing could be measured.

    Returns:
        ``reward``, its name, and ``figures``: by name, [low end of the 95% interval, mean, high
        end].
    """
    intervals = {name: mean_interval(v) for name, v in _columns(evaluation, reward).items()}
    return {
        "reward": reward,
        "figures": {
            name: [_number(value) for value in (interval.low, interval.mean, interval.high)]
            for name, interval in intervals.items()
        },
    }


def mean_interval(values: Array) -> PairedDifference:
    """The mean of a figure over prompts, with its interval: the difference to 0."""
    return paired_difference(np.zeros_like(values), values)


def _columns(evaluation: Evaluation, reward: str) -> dict[str, Array]:
    """All figures of an evaluation by name, the reward first."""
    terms = {f"{reward}: {name}": values for name, values in evaluation.terms.items()}
    return {reward: evaluation.rewards} | terms | evaluation.other_rewards | evaluation.metrics


def comparison(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Other rewards, diversity and drift, before and after, for JSON files.

    Returns:
        ``other_rewards`` and ``metrics``: by name, ``before``, ``after``, and ``difference`` as
        [low end of its 95% interval, mean, high end]; None where nothing could be measured.
    """
    groups = {
        "other_rewards": (before.other_rewards, after.other_rewards),
        "metrics": (before.metrics, after.metrics),
    }
    return {
        group: {name: _figures(old, new) for name, old, new in pairs(*both)}
        for group, both in groups.items()
    }


def _figures(before: Array, after: Array) -> dict[str, Any]:
    """Means and their difference for JSON files, None where nothing could be measured."""
    difference = paired_difference(before, after)
    interval = (difference.low, difference.mean, difference.high)
    return {
        "before": _number(mean(before)),
        "after": _number(mean(after)),
        "difference": [_number(value) for value in interval],
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def figures(before: Evaluation, after: Evaluation, reward: str) -> dict[str, Any]:
    """What a policy scores before and after training, for JSON files."""
    return {
        "reward": reward,
        **_figures(before.rewards, after.rewards),
        **comparison(before, after),
    }


def summarise(
    run: RunFolder,
    before: Evaluation,
    after: Evaluation,
    reward: str,
    where: str,
    seconds: float,
) -> dict[str, Any]:
    """The run's figures, for `RunFolder.summary_file`."""
    metrics = run.metrics()
    difference = paired_difference(before.rewards, after.rewards)
    return {
        "reward": reward,
        "reward_before": _number(mean(before.rewards)),
        "reward_after": _number(mean(after.rewards)),
        "difference": _number(difference.mean),
        "difference_low": _number(difference.low),
        "difference_high": _number(difference.high),
        "terms_before": {k: _number(mean(v)) for k, v in before.terms.items()},
        "terms_after": {k: _number(mean(v)) for k, v in after.terms.items()},
        **comparison(before, after),
        "evaluated_on": where,
        "prompts": len(before.prompts),
        "samples_per_prompt": before.rewards.shape[1],
        "training_seconds": seconds,
        "images": int(metrics[-1]["count/reward_queries"]),
        "denoiser_evaluations": int(metrics[-1]["count/denoiser_evaluations"]),
    }


def write_report(
    run: RunFolder,
    before: Evaluation,
    after: Evaluation,
    reward: str,
    where: str,
    console: Console,
) -> None:
    """Prints the table, draws the pictures, and writes the figures."""
    metrics = run.metrics()
    seconds = training_seconds(metrics)
    before_after(before.images, after.images, before.prompts, run.pictures_file)
    reward_curve(
        [r["count/reward_queries"] for r in metrics],
        [r["rollout/reward_mean"] for r in metrics],
        (mean(before.rewards), mean(after.rewards)),
        reward,
        run.curve_file,
    )
    if credit := run.mean_credit():
        credit_per_step(credit, run.credit_file)
    summary = summarise(run, before, after, reward, where, seconds)
    write_json(run.summary_file, summary)
    write_page(run, run.report_file)
    title = f"{len(before.prompts)} {where} prompts x {before.rewards.shape[1]} images, same noise"
    print_comparison(console, before, after, reward, title)
    say(
        console,
        f"{summary['images']:,} images in {seconds:.0f} s of training "
        f"({summary['images'] / seconds:.1f} images/s), "
        f"{summary['denoiser_evaluations']:,} denoiser evaluations",
    )
    for name, file in (
        ("report", run.report_file),
        ("pictures", run.pictures_file),
        ("reward curve", run.curve_file),
        ("weights for diffusers", run.exported),
    ):
        say(console, f"{name:>22}: {file}")
    sample = ("python", "-m", "agents.sample", run.path, "--prompt", before.prompts[0])
    say(console, f"Draw with it: {command(sample)}")
