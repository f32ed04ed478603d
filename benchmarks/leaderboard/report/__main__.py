"""The subcommands ``report`` and ``coverage`` of ``python -m benchmarks.leaderboard``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from agents.files import atomic
from agents.runs.run_folder import write_json
from benchmarks.leaderboard.protocol import NEWEST, PUBLISHED, load_protocol
from benchmarks.leaderboard.record import RESULTS
from benchmarks.leaderboard.report import markdown, page, pictures
from benchmarks.leaderboard.report.figures import Report, report
from benchmarks.leaderboard.report.inputs import Strip, measured_records, strips
from benchmarks.leaderboard.statistics import coverage

ROOT = Path(__file__).parents[3]


def texts(figures: Report, kept: Sequence[Strip], simulated: Path) -> dict[str, str]:
    """The pages by their file's name, the page of HTML without its library."""
    covered = json.loads(simulated.read_text(encoding="utf-8"))
    return {
        "LEADERBOARD.md": markdown.document(figures, covered),
        "docs/leaderboard.html": page.document(figures, covered, kept),
    }


def picture_names() -> dict[str, str]:
    """The picture of each theme."""
    return {theme: f"docs/leaderboard-{theme}.svg" for theme in pictures.THEMES}


def write(figures: Report, kept: Sequence[Strip], simulated: Path, output: Path) -> None:
    """Writes all files of the report."""
    (output / "docs").mkdir(parents=True, exist_ok=True)
    for name, text in texts(figures, kept, simulated).items():
        whole = text.replace(page.LIBRARY, get_plotlyjs())
        with atomic(output / name) as partial:
            partial.write_text(whole, encoding="utf-8")
        print(f"{name}: {len(whole.encode()) / 1e6:.1f} MB")
    for theme, name in picture_names().items():
        with atomic(output / name) as partial:
            pictures.draw(figures, partial, theme)


def outdated(figures: Report, kept: Sequence[Strip], simulated: Path, output: Path) -> list[str]:
    """The files that are not what the records give."""
    wrong = []
    for name, text in texts(figures, kept, simulated).items():
        path = output / name
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        # The library may be of another version; what stands before and after it may not differ.
        before, library, after = text.partition(page.LIBRARY)
        enough = len(found) >= len(before) + len(after)
        same = found.startswith(before) and found.endswith(after) and enough
        if not (same if library else found == text):
            wrong.append(name)
    for name in picture_names().values():
        if pictures.digest_in(output / name) != pictures.digest(figures):
            wrong.append(name)
    return wrong


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes or checks the report; or simulates what intervals cover."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    reporting = commands.add_parser("report", help="LEADERBOARD.md, the page and the pictures")
    reporting.add_argument("--check", action="store_true", help="fail if they are out of date")
    reporting.add_argument("--protocol", type=Path, default=NEWEST, help="its TOML")
    reporting.add_argument("--results", type=Path, default=RESULTS, help="the records")
    reporting.add_argument("--output", type=Path, default=ROOT, help="where the report lies")
    simulating = commands.add_parser("coverage", help="simulate what intervals cover")
    simulating.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.command == "coverage":
        simulated = coverage.simulate()
        write_json(options.output / "coverage.json", simulated)
        (options.output / "coverage.md").write_text(coverage.document(simulated), encoding="utf-8")
        return
    protocol = load_protocol(PUBLISHED, options.protocol)
    records = measured_records(protocol, options.results)
    found = report(protocol, records), strips(protocol, options.results, records)
    if not options.check:
        write(*found, RESULTS / "coverage.json", options.output)
    elif wrong := outdated(*found, RESULTS / "coverage.json", options.output):
        sys.exit(f"not what the records give: {', '.join(wrong)}; write the report again")


if __name__ == "__main__":
    main()
