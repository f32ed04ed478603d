"""What the figures say, in sentences; every one follows from the figures."""

from collections.abc import Sequence

from benchmarks.leaderboard.report.figures import Report, Row
from benchmarks.leaderboard.statistics.intervals import Interval
from benchmarks.leaderboard.statistics.significance import needed_seeds

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
    """The sentences, the most important first."""
    if not report.runs:
        return [NOTHING]
    left = []
    if report.runs < report.wanted:
        left = [f"{report.runs} of {report.wanted} runs have been measured; the others follow."]
    tasks = (line for task in report.rows for line in _task(report, task))
    return [*left, *_family(report), *tasks]


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
        named = ", ".join(
            f"{v.method} ({v.missing}, {v.difference.seeds} of {needed_seeds(m)})" for v in missing
        )
        lines.append(
            f"Not tested: {named}; a seed counts where all tasks of the "
            f"protocol ({report.planned}) have it."
        )
    return lines


def _task(report: Report, task: str) -> list[str]:
    baseline = report.baseline
    rows = [row for row in report.rows[task] if row.method != baseline]
    lines = []
    known = [row for row in rows if row.times_fewer]
    told = [row for row in known if row.times_fewer and row.times_fewer.excludes(1)]
    fewer = [row for row in told if row.times_fewer and row.times_fewer.mean > 1]
    more = [row for row in told if row not in fewer]
    alike = [row for row in known if row.times_fewer and row.times_fewer.alike]
    for chosen, what in ((fewer, "fewer"), (more, "more")):
        if chosen:
            named = "; ".join(_times(row, what) for row in _by_times(chosen, what))
            lines.append(f"{task}: {what} reward queries to the target than {baseline}: {named}.")
    if alike:
        named = "; ".join(f"{row.method} {shown(row.times_fewer, 1)}" for row in alike)
        lines.append(
            f"{task}: times fewer reward queries to the target than {baseline}, the same in every "
            f"seed and so without an interval: {named}."
        )
    open_ = [row.method for row in known if row not in told and row not in alike]
    if open_:
        lines.append(
            f"{task}: reward queries to the target not told from {baseline}'s: {', '.join(open_)}."
        )
    for name, of in (("kl_at_target", "KL divergence"), ("diversity_at_target", "diversity")):
        lines += _equal_reward(task, rows, name, f"{of} against {baseline}'s")
    return lines


def _times(row: Row, what: str) -> str:
    value = row.times_fewer
    assert value is not None
    if what == "more":
        value = Interval(1 / value.mean, 1 / value.high, 1 / value.low, value.seeds)
    return f"{row.method} {shown(value, 1)} times"


def _by_times(rows: Sequence[Row], what: str) -> list[Row]:
    sign = -1 if what == "fewer" else 1
    return sorted(rows, key=lambda row: sign * (row.times_fewer.mean if row.times_fewer else 0))


def _equal_reward(task: str, rows: Sequence[Row], name: str, of: str) -> list[str]:
    """What is known of drift or diversity where both have the target's reward."""
    values = {row.method: getattr(row, name) for row in rows}
    known = {method: value for method, value in values.items() if value is not None}
    if not known:
        return []
    decided = [f"{m} {shown(v, sign=True)}" for m, v in known.items() if v.excludes(0)]
    undecided = [m for m, v in known.items() if not v.excludes(0)]
    line = f"{task}: {of}, each when it first has at least the target's "
    line += "reward: "
    parts = ["; ".join(decided)] if decided else []
    if undecided:
        parts.append(f"not told apart: {', '.join(undecided)}")
    return [f"{line}{'; '.join(parts)}."]
