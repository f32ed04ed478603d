"""Everything measured, before and after training, as words for tables."""

from dataclasses import dataclass
from typing import NamedTuple

from agents.evaluation.evaluation import Evaluation, mean, paired_difference, pairs
from agents.evaluation.image_metrics import Array


class Row(NamedTuple):
    """One figure: its name, its means, and the paired difference with its 95% interval."""

    name: str
    before: str
    after: str
    difference: str


@dataclass(frozen=True)
class Section:
    """Figures that belong together.

    Attributes:
        heading: What they are; None for the reward, whose terms follow it.
        rows: The figures.
    """

    heading: str | None
    rows: list[Row]


def comparison_sections(before: Evaluation, after: Evaluation, reward: str) -> list[Section]:
    """The reward and its terms, then other rewards, then diversity and drift."""
    first = Row(reward, *_cells(before.rewards, after.rewards))
    groups = {
        "other rewards": (before.other_rewards, after.other_rewards),
        "diversity and drift": (before.metrics, after.metrics),
    }
    return [
        Section(None, [first, *_rows(before.terms, after.terms)]),
        *(Section(heading, _rows(*both)) for heading, both in groups.items() if any(both)),
    ]


def shortcomings(before: Evaluation, after: Evaluation) -> list[str]:
    """What the table lacks, in sentences."""
    told = [(when, each.failures()) for when, each in (("before", before), ("after", after))]
    return [
        *(f"{when}: {failures}" for when, failures in told if failures),
        *left_out(after),
    ]


def left_out(evaluation: Evaluation) -> list[str]:
    """The rewards that an evaluation lacks, in sentences."""
    return [
        f"{name} left out: it cannot read these prompts ({reason})"
        for name, reason in evaluation.left_out.items()
    ]


def _rows(before: dict[str, Array], after: dict[str, Array]) -> list[Row]:
    return [Row(name, *_cells(old, new)) for name, old, new in pairs(before, after)]


def _cells(before: Array, after: Array) -> tuple[str, str, str]:
    difference = str(paired_difference(before, after))
    return f"{mean(before):.3f}", f"{mean(after):.3f}", difference
