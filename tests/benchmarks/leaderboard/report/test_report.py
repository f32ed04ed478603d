import json
import re

import numpy as np
import pytest
from pilot_records import PROTOCOL, records, write

from benchmarks.leaderboard.report.__main__ import main
from benchmarks.leaderboard.report.figures import report, score
from benchmarks.leaderboard.report.inputs import Task, measured_records, tasks
from benchmarks.leaderboard.report.reading import NOTHING, reading
from benchmarks.leaderboard.statistics.significance import needed_seeds, sign_flip
from diffusion_gym.errors import InvalidInputError

TASK = Task("house_style", 256, 0.47, 0.95, 0.55)


def grown(seeds):
    """The pilot's runs of four methods, given again with a little noise until there are enough."""
    pilot = [r for r in records() if r["method"] in ("sparse", "coca", "noise-aware", "mask-last")]
    rng = np.random.default_rng(0)
    for record in pilot:
        for seed in range(record["seed"], seeds, 5):
            shift = rng.normal(0, 0.01)
            after = dict(record["after"])
            after["rewards"] = (np.array(after["rewards"]) + shift).tolist()
            yield record | {"seed": seed, "after": after}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    arguments = ["report", *write(folder, grown(10)), "--output", str(folder)]
    main(arguments)
    return folder, arguments


def test_the_report_is_what_the_records_give(written):
    folder, arguments = written
    names = ("LEADERBOARD.md", "docs/leaderboard.html", "docs/leaderboard-dark.svg")
    before = {name: (folder / name).read_bytes() for name in names}
    main([*arguments, "--check"])
    main(arguments)
    assert {name: (folder / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("LEADERBOARD.md", "coca", "c0ca"),
        ("docs/leaderboard.html", "coca", "c0ca"),
        ("docs/leaderboard-light.svg", "<dc:description>", "<dc:description>0"),
    ],
)
def test_a_report_that_was_changed_by_hand_is_found(written, name, old, new):
    folder, arguments = written
    path = folder / name
    kept = path.read_text()
    assert old in kept
    path.write_text(kept.replace(old, new))
    with pytest.raises(SystemExit, match=name):
        main([*arguments, "--check"])
    path.write_text(kept)
    main([*arguments, "--check"])


def test_a_new_record_makes_the_report_outdated(written):
    folder, arguments = written
    path = folder / "results/v0/house_style/coca/seed3.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"failed": "out of memory"}))
    with pytest.raises(SystemExit, match=r"LEADERBOARD.md, docs/leaderboard.html"):
        main([*arguments, "--check"])
    path.write_text(kept)


def test_the_page_needs_no_network(written):
    page = (written[0] / "docs/leaderboard.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page.replace("\n", " ")[:9000])
    assert "Plotly" in page
    assert len(page) > 1_000_000


def test_enough_seeds_are_decided_by_the_exact_test():
    runs = list(grown(10))
    found = report([TASK], runs)
    scores = {
        method: np.array(
            [score(r, TASK) for r in sorted(runs, key=lambda r: r["seed"]) if r["method"] == method]
        )
        for method in found.methods
    }
    for verdict in found.family:
        assert verdict.p == sign_flip(scores[verdict.method] - scores["sparse"])
        assert verdict.p <= verdict.adjusted <= 3 * verdict.p
    assert reading(found)[0].startswith("Mean score above sparse's after Holm over 3 methods: ")


def test_too_few_seeds_are_not_tested():
    found = report([TASK], list(records()))
    assert {verdict.missing for verdict in found.family} == {"insufficient seeds"}
    needed = needed_seeds(len(found.methods) - 1)
    assert any(f"5 of {needed}" in line for line in reading(found))
    assert not any("after Holm" in line for line in reading(found))


def test_the_reading_follows_the_numbers():
    """With the baseline's and a method's runs exchanged, so is what is said of them."""
    runs = [r for r in grown(10) if r["method"] in ("sparse", "noise-aware")]
    other = {"sparse": "noise-aware", "noise-aware": "sparse"}
    exchanged = [run | {"method": other[run["method"]]} for run in runs]
    lines = reading(report([TASK], exchanged))
    assert lines[0].startswith("Mean score below sparse's after Holm over 1 methods: noise-aware")
    assert lines[1] == "No method is shown to have a mean score above sparse's."


def test_a_failed_run_counts():
    runs = [run for run in records() if run["method"] in ("sparse", "coca")]
    failed = [
        run | {"failed": "killed"} if (run["method"], run["seed"]) == ("coca", 0) else run
        for run in runs
    ]
    sound, broken = (report([TASK], each).rows["house_style"][1] for each in (runs, failed))
    assert (sound.reached, broken.reached) == (1, 0.8)
    assert broken.queries == pytest.approx((4 * sound.queries + 256) / 5)
    assert broken.score.seeds == 5
    assert broken.score.mean < sound.score.mean
    assert broken.failed == 1


def test_a_method_that_lacks_a_task_is_not_tested():
    found = report([TASK, Task("jpeg", 256, 0.0, 1.0, None)], list(grown(10)))
    assert all(verdict.missing == "no common seeds" for verdict in found.family)
    assert not found.stability


def test_without_records_the_report_says_so(tmp_path):
    arguments = ["report", *write(tmp_path, []), "--output", str(tmp_path)]
    main(arguments)
    main([*arguments, "--check"])
    for name in ("LEADERBOARD.md", "docs/leaderboard.html"):
        assert NOTHING in (tmp_path / name).read_text()


def test_inputs_that_cannot_be_read(tmp_path):
    path = tmp_path / "v0.toml"
    path.write_text(PROTOCOL.replace("untrained", "before"))
    with pytest.raises(InvalidInputError, match="'untrained'"):
        tasks(path)
    write(tmp_path, [next(records()) | {"schema": 7}])
    with pytest.raises(InvalidInputError, match="expected schema 1, got 7"):
        measured_records(tmp_path / "results/v0")
