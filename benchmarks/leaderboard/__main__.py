"""Methods compared at equal cost: ``python -m benchmarks.leaderboard``.

``plan``, ``run``, ``reproduce`` and ``check`` make and check records; ``report`` shows them, and
``coverage`` simulates what its intervals hold.

What is recorded is never run again: the command may be stopped at any time and given again.
"""

import argparse
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from benchmarks.leaderboard.check import at_the_edge, problems
from benchmarks.leaderboard.jobs import MEASURED, SEARCH, Job, Matrix
from benchmarks.leaderboard.live import Progress
from benchmarks.leaderboard.methods import FOLDER, MethodFile, chosen_methods, load_methods
from benchmarks.leaderboard.protocol import NEWEST, Protocol, load_protocol
from benchmarks.leaderboard.record import RESULTS, read_record, write_record
from benchmarks.leaderboard.reproduce import changed_circumstances, differences, reproduce
from benchmarks.leaderboard.results import records_of
from benchmarks.leaderboard.runner import run_job
from benchmarks.leaderboard.strips import SUFFIX
from diffusion_gym.errors import InvalidInputError, one_line


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] in (["report"], ["coverage"]):
        from benchmarks.leaderboard.report.__main__ import main as report

        report(given)
        return 0
    options = _parser().parse_args(given)
    console = Console()
    try:
        protocol = load_protocol(options.tier, options.protocol)
        status: int = options.command(options, protocol, console)
    except InvalidInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard", description=(__doc__ or "").splitlines()[0]
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--tier", default="standard", help="standard or smoke")
    common.add_argument("--protocol", type=Path, default=NEWEST, help="default: the newest")
    common.add_argument("--method-files", type=Path, default=FOLDER, help="folder of *.toml")
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--tasks", nargs="+", help="default: the protocol's")
    chosen.add_argument("--methods", nargs="+", help="default: all")
    chosen.add_argument("--seeds", nargs="+", type=int, help="default: the protocol's")
    chosen.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    commands = parser.add_subparsers(required=True)

    plan = commands.add_parser("plan", parents=[common, chosen], help="what is left to run")
    plan.set_defaults(command=_plan)

    run = commands.add_parser("run", parents=[common, chosen], help="one run, or all by Ray")
    run.add_argument("--task", help="of one run alone, with --method and --seed; needs no Ray")
    run.add_argument("--method")
    run.add_argument("--seed", type=int)
    run.add_argument("--learning-rate", type=float, help="of one run; default: the search's choice")
    run.add_argument("--device", default="cpu", help="of one run")
    run.add_argument("--threads", type=int, default=1, help="of one run")
    run.add_argument("--address", help="of a Ray cluster; default: this machine alone")
    run.add_argument("--cpus", type=float, default=1.0, help="cores of each run, its threads")
    run.add_argument("--gpus", type=float, default=0.0, help="part of a GPU of each run")
    run.set_defaults(command=_run)

    again = commands.add_parser("reproduce", parents=[common], help="records' runs once more")
    again.add_argument("records", nargs="+", type=Path)
    again.add_argument(
        "--pictures", action="store_true", help="keep pictures of each run beside its record"
    )
    again.set_defaults(command=_reproduce)

    check = commands.add_parser("check", parents=[common], help="whether records can be published")
    check.add_argument("paths", nargs="+", type=Path)
    check.add_argument("--partial", action="store_true", help="runs may be missing yet")
    check.set_defaults(command=_check)
    return parser


def _matrix(options: Namespace, protocol: Protocol) -> Matrix:
    tasks = options.tasks or list(protocol.tasks)
    for name in tasks:
        protocol.task(name)
    names = tuple(options.methods or protocol.methods)
    methods = chosen_methods(names, options.method_files)
    return Matrix(protocol, methods, tasks, options.seeds or protocol.seeds)


def _plan(options: Namespace, protocol: Protocol, console: Console) -> int:
    matrix = _matrix(options, protocol)
    records = records_of(matrix, options.results)
    for name in matrix.tasks:
        hashed = protocol.task(name).sha256
        console.print(f"protocol {protocol.name}, {name}: {hashed}", highlight=False)
    console.print(Progress(matrix).table(records, matrix.ready(records)))
    return 0


def _run(options: Namespace, protocol: Protocol, console: Console) -> int:
    if options.task or options.method or options.seed is not None:
        return _run_one(options, protocol, console)
    try:
        import ray
    except ImportError as error:
        raise InvalidInputError(
            'expected Ray for the matrix of runs: pip install -e ".[leaderboard]"'
        ) from error
    from benchmarks.leaderboard.matrix import Resources, run_matrix

    matrix = _matrix(options, protocol)
    progress = Progress(matrix)
    ray.init(address=options.address or "local", log_to_driver=False)
    with Live(console=console, auto_refresh=False) as live:
        resources = Resources(options.cpus, options.gpus)
        records = run_matrix(
            matrix,
            options.results,
            resources,
            lambda done, flying: live.update(progress.table(done, flying), refresh=True),
        )
    for pair in at_the_edge(protocol, list(records.values())):
        console.print(f"{pair}: the best rate is the lowest or highest that was tried")
    return 0


def _run_one(options: Namespace, protocol: Protocol, console: Console) -> int:
    if not options.task or not options.method or options.seed is None:
        raise InvalidInputError("expected --task, --method and --seed of one run, got fewer")
    method = chosen_methods((options.method,), options.method_files)[options.method]
    job = _job(options, protocol, method)
    path = options.results / protocol.name / job.file
    if path.is_file():
        raise InvalidInputError(f"expected a run without a record, got {path}")
    record = run_job(protocol, method, job, device=options.device, threads=options.threads)
    write_record(path, record)
    console.print(f"{path}: {record['failed'] or record['spent']}", highlight=False, soft_wrap=True)
    return 0


def _job(options: Namespace, protocol: Protocol, method: MethodFile) -> Job:
    """The run that is asked for: with the rate that the search chose, or the one given."""
    kind = SEARCH if options.seed in protocol.search_seeds else MEASURED
    if not method.trains:
        return Job(options.task, options.method, kind, options.seed, 0.0)
    rate = options.learning_rate
    if rate is None:
        matrix = Matrix(protocol, {options.method: method}, [options.task], [options.seed])
        folder = options.results / protocol.name / options.task / options.method / SEARCH
        found = [read_record(path) for path in sorted(folder.glob("*.json"))]
        ready = matrix.ready({Job.of(record): record for record in found})
        if not ready or ready[0].kind != MEASURED:
            raise InvalidInputError(
                "expected --learning-rate, or a finished search of this method, got neither"
            )
        rate = ready[0].learning_rate
    return Job(options.task, options.method, kind, options.seed, rate)


def _reproduce(options: Namespace, protocol: Protocol, console: Console) -> int:
    methods, changed = load_methods(options.method_files), 0
    for path in options.records:
        record = read_record(path)
        picture = path.with_suffix(SUFFIX) if options.pictures else None
        again = reproduce(protocol, methods, record, picture)
        differ = differences(record, again)
        for text in (*changed_circumstances(record, again), *differ):
            console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)
        count = f"{len(differ)} numbers differ" if differ else "the same, bit for bit"
        console.print(f"{path}: {count}", highlight=False, markup=False, soft_wrap=True)
        changed += bool(differ)
    return 1 if changed else 0


def _check(options: Namespace, protocol: Protocol, console: Console) -> int:
    methods = load_methods(options.method_files)
    found = problems(protocol, methods, options.paths, options.partial)
    for text in found:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(found)} problems" if found else "valid", highlight=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
