import pytest

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from benchmarks.leaderboard.jobs import Job, Matrix  # noqa: E402
from benchmarks.leaderboard.live import Progress  # noqa: E402
from benchmarks.leaderboard.matrix import Resources, run_matrix  # noqa: E402
from benchmarks.leaderboard.methods import load_methods  # noqa: E402
from benchmarks.leaderboard.protocol import NEWEST, load_protocol  # noqa: E402
from benchmarks.leaderboard.record import read_record  # noqa: E402


@pytest.fixture
def cluster():
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing_and_doubles_nothing(cluster, tmp_path):
    toy = tmp_path / "v0.toml"
    toy.write_text(NEWEST.read_text().replace("rates = 3", "rates = 1"))
    protocol = load_protocol("smoke", toy)
    assert protocol.tuning.rates == 1
    methods = {name: load_methods()[name] for name in ("untrained", "sparse")}
    matrix = Matrix(protocol, methods, ["house_style"], protocol.seeds)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    progress, seen, killed = Progress(matrix), [], []

    def watch(records, submitted):
        seen.append(len(records))
        assert progress.table(records, submitted).row_count == 2
        if records and not killed:  # both nodes are busy: four runs were ready at once
            killed.append(second)
            cluster.remove_node(second, allow_graceful=False)

    records = run_matrix(matrix, tmp_path / "results", Resources(), watch)
    assert killed
    assert len(cluster.list_all_nodes()) == 1
    assert seen == list(range(matrix.size + 1))  # one more after each run, none twice
    files = sorted((tmp_path / "results").rglob("*.json"))
    assert len(files) == len(records) == matrix.size == 6
    assert {Job.of(read_record(path)) for path in files} == set(records)
    assert all(record["failed"] is None for record in records.values())

    times = [path.stat().st_mtime_ns for path in files]
    assert run_matrix(matrix, tmp_path / "results", Resources()) == records
    assert times == [path.stat().st_mtime_ns for path in files]
