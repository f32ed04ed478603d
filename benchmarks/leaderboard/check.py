"""Whether records can be published: what continuous integration asks of a submission."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.leaderboard.jobs import MEASURED, SEARCH, Job, Matrix, search_scores
from benchmarks.leaderboard.methods import MethodFile
from benchmarks.leaderboard.protocol import Protocol
from benchmarks.leaderboard.record import Record, read_record
from benchmarks.leaderboard.runner import job_options
from benchmarks.leaderboard.tuning import is_inside
from diffusion_gym.errors import InvalidInputError


def problems(
    protocol: Protocol,
    methods: Mapping[str, MethodFile],
    paths: Sequence[Path],
    partial: bool = False,
) -> list[str]:
    """Everything that is wrong with records; nothing where they can be published.

    Args:
        protocol: The protocol that they claim to follow.
        methods: By name.
        paths: Records, or folders of them.
        partial: Whether runs may be missing yet.
    """
    found: list[str] = []
    records: dict[Job, Record] = {}
    files: dict[Job, Path] = {}
    for path in _files(paths):
        try:
            record = read_record(path)
            job = Job.of(record)
            own = list(_of_record(protocol, methods, job, record))
        except InvalidInputError as error:
            found.append(str(error))
            continue
        if job in records:
            own.append(f"the same run as {files[job]}")
        if path.parts[-len(job.file.parts) :] != job.file.parts:
            own.append(f"expected a path that ends in {job.file}")
        records[job], files[job] = record, path
        found += [f"{path}: {text}" for text in own]
    if not files and not found:
        return [f"expected records, found none in {', '.join(map(str, paths))}"]
    pairs = sorted({(job.task, job.method) for job in records})
    for task, name in pairs:
        if task in protocol.tasks and name in methods:
            own_records = {j: r for j, r in records.items() if (j.task, j.method) == (task, name)}
            whole = _of_pair(protocol, task, name, methods[name], own_records, partial)
            found += [f"{task}/{name}: {text}" for text in whole]
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.json")) if path.is_dir() else [path]


def _of_record(
    protocol: Protocol, methods: Mapping[str, MethodFile], job: Job, record: Record
) -> Iterator[str]:
    """What is wrong with one record by itself."""
    task = protocol.task(job.task)
    if record["protocol"] != {"name": protocol.name, "hash": task.sha256}:
        yield (
            f"expected the protocol {protocol.name} {task.sha256[:16]}, got "
            f"{record['protocol']['name']} {record['protocol']['hash'][:16]}"
        )
    if not record["clean"] or record["commit"] is None:
        yield "expected a run of a committed state, got one of changed or unknown files"
    points = [record["spent"], *record["curve"]]
    spent = max(point["reward_queries"] for point in points)
    if spent > task.queries:
        yield f"expected at most {task.queries} reward queries, got {spent}"
    known = protocol.seeds if job.kind == MEASURED else protocol.search_seeds
    if job.seed not in known:
        yield f"expected a seed of {list(known)}, got {job.seed}"
    if job.method not in methods:
        yield f"expected a method with a file in methods/, got {job.method!r}"
        return
    method = methods[job.method]
    expected = job_options(protocol, method, job)
    if record["options"] != expected:
        names = sorted(
            name
            for name in expected.keys() | record["options"].keys()
            if expected.get(name) != record["options"].get(name)
        )
        yield f"expected the options of protocol and method, got another {', '.join(names)}"
    if method.trains and record["failed"] is None:
        batch = expected["num_envs"] * expected.get("batches_per_round", 1)
        rounds = expected["images"] // batch
        if len(record["training_rewards"]) != rounds:
            yield f"expected {rounds} rounds, got {len(record['training_rewards'])}"
        if record["spent"]["reward_queries"] != rounds * batch:
            yield f"expected {rounds * batch} reward queries, got {record['spent']}"
    if record["failed"] is None:
        shape = len(record["prompts"]), len(record["after"]["rewards"][0])
        most = expected["eval_prompts"], expected["eval_samples"]
        if shape != most:
            yield f"expected an evaluation of {most} prompts and images each, got {shape}"
    if job.kind == MEASURED and record["failed"] is None and method.trains:
        if [point["round"] for point in record["curve"]] != list(range(rounds + 1)):
            yield "expected a curve with a point after every whole round"


def _of_pair(
    protocol: Protocol,
    task: str,
    name: str,
    method: MethodFile,
    records: Mapping[Job, Record],
    partial: bool,
) -> Iterator[str]:
    """What is missing of a method on a task, and whether its rate is the search's."""
    matrix = Matrix(protocol, {name: method}, [task], protocol.seeds)
    missing = [] if partial else matrix.ready(records)
    if missing:
        yield f"expected all runs of search and seeds, missing {', '.join(_names(missing))}"
    elif set(records) - set(_complete(matrix, records)):
        extra = sorted(set(records) - set(_complete(matrix, records)), key=str)
        yield f"expected the search's runs and choice alone, got {', '.join(_names(extra))}"


def _complete(matrix: Matrix, records: Mapping[Job, Record]) -> list[Job]:
    """The jobs of a finished matrix, found by making it again from nothing."""
    made: dict[Job, Record] = {}
    while ready := [job for job in matrix.ready(made) if job in records]:
        made |= {job: records[job] for job in ready}
    return list(made)


def _names(jobs: Sequence[Job]) -> list[str]:
    return [str(job.file) for job in jobs]


def at_the_edge(protocol: Protocol, records: Sequence[Record]) -> list[str]:
    """Methods whose best rate is the lowest or highest that was tried, to be said beside them."""
    pairs = sorted({(r["task"], r["method"]) for r in records if r["kind"] == SEARCH})
    scores = {
        pair: search_scores(protocol, [r for r in records if (r["task"], r["method"]) == pair])
        for pair in pairs
    }
    return ["/".join(pair) for pair, own in scores.items() if own and not is_inside(own)]
