"""The end of a run: its table, its pictures, its figures in a file."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.evaluation import Evaluation, paired_difference
from agents.pictures import before_after, reward_curve
from agents.run_folder import RunFolder, write_json


def comparison_table(before: Evaluation, after: Evaluation, reward: str, title: str) -> Table:
    """Reward and its terms before and after, with 95% intervals of the paired differences."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    table.add_column("difference, 95% interval", justify="right")
    rows = {reward: (before.rewards, after.rewards)}
    rows |= {f"  {name}": (before.terms[name], after.terms[name]) for name in before.terms}
    for name, (old, new) in rows.items():
        style = "bold" if name == reward else "dim"
        table.add_row(
            name,
            f"{np.nanmean(old):.3f}",
            f"{np.nanmean(new):.3f}",
            str(paired_difference(old, new)),
            style=style,
        )
    return table


def summarise(
    run: RunFolder, before: Evaluation, after: Evaluation, reward: str, seconds: float
) -> dict[str, Any]:
    """The run's figures, for `RunFolder.summary_file`."""
    metrics = run.metrics()
    difference = paired_difference(before.rewards, after.rewards)
    return {
        "reward": reward,
        "held_out_before": float(np.nanmean(before.rewards)),
        "held_out_after": float(np.nanmean(after.rewards)),
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "terms_before": {k: float(np.nanmean(v)) for k, v in before.terms.items()},
        "terms_after": {k: float(np.nanmean(v)) for k, v in after.terms.items()},
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
    seconds = sum(r["time/rollout_seconds"] + r["time/update_seconds"] for r in metrics)
    before_after(before.images, after.images, before.prompts, run.pictures_file)
    reward_curve(
        [r["count/reward_queries"] for r in metrics],
        [r["rollout/reward_mean"] for r in metrics],
        (float(np.nanmean(before.rewards)), float(np.nanmean(after.rewards))),
        reward,
        run.curve_file,
    )
    summary = summarise(run, before, after, reward, seconds)
    write_json(run.summary_file, summary)
    title = f"{len(before.prompts)} {where} prompts x {before.rewards.shape[1]} images, same noise"
    console.print(comparison_table(before, after, reward, title))
    console.print(
        f"{summary['images']:,} images in {seconds:.0f} s of training "
        f"({summary['images'] / seconds:.1f} images/s), "
        f"{summary['denoiser_evaluations']:,} denoiser evaluations",
        highlight=False,
    )
    for name, file in (
        ("pictures", run.pictures_file),
        ("reward curve", run.curve_file),
        ("weights for diffusers", run.exported),
    ):
        console.print(f"{name:>22}: {file}", highlight=False, soft_wrap=True)
