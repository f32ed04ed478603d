"""What the figures say, in sentences; every one follows from the figures."""

from collections.abc import Callable, Sequence

from benchmarks.leaderboard.report.figures import Pair, Report, Row
from benchmarks.leaderboard.statistics.intervals import Interval
from benchmarks.leaderboard.statistics.significance import needed_seeds

ASKED = (
    *(("coca", other) for other in ("mask-last", "uniform", "equal-scale", "noise-aware")),
    *(("noise-aware", other) for other in ("mask-last", "uniform", "equal-scale")),
    *(("nft", other) for other in ("coca", "noise-aware", "awm")),
    *(("b2", other) for other in ("uniform", "b2-branch", "b2+noise-aware")),
)
"""Pairs of methods that something is said of, besides each against the baseline."""

UNTRAINED = "untrained"
"""The row that trains nothing."""

THERE = "when first at the target's reward"
NOTHING = "No run has been measured yet; there is nothing to read."


def shown(value: Interval | None, digits: int = 3, sign: bool = False) -> str:
    """A mean with its interval, as a table has it."""
    if value is None or not value.seeds:
        return "—"
    form = f"{'+' if sign else ''}.{digits}f"
    if value.seeds < 2:
        return f"{value.mean:{form}} (1 seed)"
    if value.alike:
        return f"{value.mean:{form}} (all {value.seeds} seeds alike)"
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"


def reading(report: Report) -> list[str]:
    """The sentences on all tasks together, the most important first."""
    if not report.runs:
        return [NOTHING]
    left = []
    if report.runs < report.wanted:
        left = [f"{report.runs} of {report.wanted} runs have been measured; the others follow."]
    return [*left, *_family(report)]


def task_reading(report: Report, task: str) -> list[str]:
    """The sentences on one task: against the baseline, then between methods."""
    against = [row.baseline for row in report.rows[task] if row.baseline]
    asked = [report.pairs[task][names] for names in ASKED if names in report.pairs[task]]
    return [
        *_fewer_queries(report.baseline, against),
        *_equal_reward(report.baseline, against),
        *_between(asked, "Score", lambda pair: pair.advantage, 3),
        *_between(asked, "Score at equal denoiser evaluations", lambda pair: pair.compared, 3),
        *_between(asked, f"KL divergence {THERE}", lambda pair: pair.kl_at_target, 2),
        *_between(asked, f"Diversity {THERE}", lambda pair: pair.diversity_at_target, 3),
        *_lost(report.rows[task]),
    ]


def _family(report: Report) -> list[str]:
    better = [v for v in report.family if v.decided and v.difference.mean > 0]
    worse = [v for v in report.family if v.decided and v.difference.mean < 0]
    tested = [v for v in report.family if v.adjusted is not None and not v.decided]
    missing = [v for v in report.family if v.adjusted is None]
    m, baseline = len(report.family), report.baseline
    lines = []
    for verdicts, what in ((better, "above"), (worse, "below")):
        if verdicts:
            named = "; ".join(
                f"{v.method} ({shown(v.difference, sign=True)}, p = {v.adjusted:.3f})"
                for v in verdicts
            )
            lines.append(f"Mean score {what} {baseline}'s after Holm over {m} methods: {named}.")
    if m and not better:
        lines.append(f"No method is shown to have a mean score above {baseline}'s.")
    if tested:
        named = "; ".join(
            f"{v.method} ({shown(v.difference, sign=True)}; {v.detectable:.3f} would have been "
            "found in 80% of such experiments)"
            for v in tested
        )
        lines.append(f"Not told from {baseline}: {named}.")
    if missing:
        reasons: dict[str, list[str]] = {}
        for v in missing:
            reason = f"{v.missing}, {v.difference.seeds} of {needed_seeds(m)}"
            reasons.setdefault(reason, []).append(v.method)
        named = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        lines.append(
            f"Not tested: {named}. A seed counts where all tasks of the "
            f"protocol ({report.planned}) have it."
        )
    return lines


def _lost(rows: Sequence[Row]) -> list[str]:
    """Which methods leave less of a reward that was not trained on than there was before."""
    untrained = next((row for row in rows if row.method == UNTRAINED), None)
    if untrained is None:
        return []
    lines = []
    for name, before in untrained.others.items():
        left = [(row.method, row.others[name]) for row in rows if name in row.others]
        less = sorted((each for each in left if each[1].high < before.mean), key=_mean)
        if less:
            named = "; ".join(f"{method} {shown(value, 2)}" for method, value in less)
            lines.append(
                f"Less {name}, not trained on, than the untrained model's "
                f"{before.mean:.2f}: {named}."
            )
    return lines


def _mean(of: tuple[str, Interval]) -> float:
    return of[1].mean


def _fewer_queries(baseline: str, against: Sequence[Pair]) -> list[str]:
    known = [(pair.method, pair.times_fewer) for pair in against if pair.times_fewer]
    alike = [each for each in known if each[1].alike]
    told = [each for each in known if each[1].excludes(1)]
    open_ = [method for method, times in known if not times.alike and not times.excludes(1)]
    fewer = sorted((each for each in told if each[1].mean > 1), key=lambda each: -each[1].mean)
    more = sorted((each for each in told if each[1].mean < 1), key=lambda each: each[1].mean)
    turned = [(m, Interval(1 / t.mean, 1 / t.high, 1 / t.low, t.seeds)) for m, t in more]
    lines = []
    for chosen, what in ((fewer, "Fewer"), (turned, "More")):
        if chosen:
            named = "; ".join(f"{method} {shown(times, 1)} times" for method, times in chosen)
            lines.append(f"{what} reward queries to the target than {baseline}: {named}.")
    if alike:
        named = "; ".join(f"{method} {shown(times, 1)}" for method, times in alike)
        lines.append(
            f"Times fewer reward queries to the target than {baseline}, the same in every "
            f"seed and so without an interval: {named}."
        )
    if open_:
        lines.append(
            f"Reward queries to the target not told from {baseline}'s: {', '.join(open_)}."
        )
    return lines


def _equal_reward(baseline: str, against: Sequence[Pair]) -> list[str]:
    """Drift and diversity against the baseline's, where both have the target's reward."""
    reached = [pair for pair in against if pair.kl_at_target and pair.kl_at_target.seeds]
    if not reached and any(pair.kl_at_target for pair in against):
        return [
            f"Drift and diversity at equal reward are not compared with {baseline}'s, "
            "which reached the target with no seed that another method did."
        ]
    there = f"{THERE}, against {baseline}'s"
    kl = _between(reached, f"KL divergence {there}", lambda pair: pair.kl_at_target, 2)
    diversity = _between(reached, f"Diversity {there}", lambda pair: pair.diversity_at_target, 3)
    return [*kl, *diversity]


def _between(
    pairs: Sequence[Pair],
    of: str,
    value: Callable[[Pair], Interval | None],
    digits: int,
) -> list[str]:
    """Which of the pairs are told apart by a figure, and which are not."""
    known = [(pair, found) for pair in pairs if (found := value(pair)) and found.seeds > 1]
    told = [
        f"{pair.method} {'above' if found.mean > 0 else 'below'} {pair.other} "
        f"({shown(found, digits, sign=True)})"
        for pair, found in known
        if found.excludes(0)
    ]
    open_ = [f"{pair.method} and {pair.other}" for pair, found in known if not found.excludes(0)]
    parts = ["; ".join(told)] if told else []
    if open_:
        parts.append(f"not told apart: {', '.join(open_)}")
    return [f"{of}: {'; '.join(parts)}."] if parts else []
