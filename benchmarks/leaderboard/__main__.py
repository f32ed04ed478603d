"""The leaderboard: ``python -m benchmarks.leaderboard {plan,run,coverage,report,check}``.

What is finished is kept: ``run`` may be stopped at any time and given again.
"""

import argparse
from pathlib import Path

from rich.console import Console

from agents.runs.run_folder import write_json
from benchmarks.leaderboard.coverage import simulate
from benchmarks.leaderboard.matrix import Matrix, Results
from benchmarks.leaderboard.methods import FOLDER, chosen_methods
from benchmarks.leaderboard.protocol import NEWEST, load_protocol
from benchmarks.leaderboard.scheduling import (
    Resources,
    counts,
    live_table,
    run_here,
    run_with_ray,
)
from diffusion_gym.errors import InvalidInputError

PUBLISHED = Path(__file__).parents[1] / "results" / "leaderboard"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = whole.add_subparsers(dest="command", required=True)

    matrix = argparse.ArgumentParser(add_help=False)
    matrix.add_argument("--tier", default="smoke", help="of the protocol (default: smoke)")
    matrix.add_argument("--protocol", type=Path, default=NEWEST, help="its file")
    matrix.add_argument("--methods", type=Path, default=FOLDER, help="folder of the rows' files")
    matrix.add_argument("--results", type=Path, help="default: runs/leaderboard/TIER")
    matrix.add_argument(
        "--publish",
        action="store_true",
        help="the results that are kept in the repository, instead of --results",
    )
    matrix.add_argument("--task", nargs="+", default=[], help="default: the tier's")
    matrix.add_argument("--method", nargs="+", default=[], help="default: the tier's")
    matrix.add_argument("--seed", nargs="+", type=int, default=[], help="default: the tier's")

    commands.add_parser("plan", parents=[matrix], help="what is finished and what is left")
    run = commands.add_parser("run", parents=[matrix], help="make the runs that are missing")
    run.add_argument("--folder", type=Path, default=Path("runs/leaderboard/runs"))
    run.add_argument("--ray", action="store_true", help="many runs at a time, on this machine")
    run.add_argument("--address", help="of a Ray cluster, instead of this machine")
    run.add_argument("--cpus", type=float, default=1.0, help="of a run (default: 1)")
    run.add_argument("--gpus", type=float, default=0.0, help="of a run; may be a fraction")

    coverage = commands.add_parser("coverage", help="simulate what the intervals hold")
    coverage.add_argument("--repeats", type=int, default=20_000)
    coverage.add_argument("--output", type=Path, default=PUBLISHED / "coverage.json")
    return whole


def opened(options: argparse.Namespace) -> tuple[Matrix, Results]:
    """The matrix that the options name, and its results."""
    protocol = load_protocol(options.tier, options.protocol)
    methods = chosen_methods(tuple(options.method) or protocol.methods, options.methods)
    for task in options.task:
        protocol.task(task)
    if strangers := set(options.seed) - set(protocol.seeds):
        raise InvalidInputError(f"expected seeds of {protocol.seeds}, got {sorted(strangers)}")
    matrix = Matrix(protocol, methods, options.task or list(protocol.tasks), options.seed)
    folder = options.results or Path("runs/leaderboard") / options.tier
    folder = PUBLISHED / protocol.version / options.tier if options.publish else folder
    return matrix, Results(folder, protocol)


def run(options: argparse.Namespace, console: Console) -> None:
    """Makes the runs that are missing."""
    matrix, results = opened(options)
    folder = options.folder / options.tier
    done = sum(cell for row in counts(matrix, results.found) for cell in map(int, row[2:4]))
    with live_table(console, matrix.total, done) as told:
        if not (options.ray or options.address):
            run_here(matrix, results, folder, told)
            return
        import ray

        ray.init(address=options.address, log_to_driver=False)
        try:
            resources = Resources(options.cpus, options.gpus)
            run_with_ray(matrix, results, folder, resources, told)
        finally:
            ray.shutdown()


def main() -> None:
    """Does what the command line asks for."""
    options = parser().parse_args()
    console = Console()
    try:
        if options.command == "plan":
            matrix, results = opened(options)
            for row in counts(matrix, results.found):
                console.print("  ".join(row))
            console.print(f"{matrix.total} runs in all")
        elif options.command == "run":
            run(options, console)
        elif options.command == "coverage":
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.output, simulate(options.repeats))
    except InvalidInputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
