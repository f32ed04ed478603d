import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pilot_records import HOUSE, protocol, protocol_text, records, write
from scipy import stats

from benchmarks.leaderboard.protocol import load_protocol
from benchmarks.leaderboard.record import RESULTS
from benchmarks.leaderboard.report import markdown
from benchmarks.leaderboard.report.__main__ import main
from benchmarks.leaderboard.report.figures import report, score
from benchmarks.leaderboard.report.inputs import measured_records
from benchmarks.leaderboard.report.reading import NOTHING, reading, task_reading
from benchmarks.leaderboard.statistics.significance import needed_seeds, sign_flip
from diffusion_gym.errors import InvalidInputError

COVERED = json.loads((RESULTS / "coverage.json").read_text())


def with_task(pilot, task):
    """The protocol with a task that is read in another way."""
    return replace(pilot, tasks={task.name: task})


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    return protocol(tmp_path_factory.mktemp("protocol"))


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


def test_enough_seeds_are_decided_by_the_exact_test(pilot):
    runs, task = list(grown(10)), pilot.task("house_style")
    found = report(pilot, runs)
    scores = {
        method: np.array(
            [score(r, task) for r in sorted(runs, key=lambda r: r["seed"]) if r["method"] == method]
        )
        for method in found.methods
    }
    for verdict in found.family:
        assert verdict.p == sign_flip(scores[verdict.method] - scores["sparse"])
        assert verdict.p <= verdict.adjusted <= 3 * verdict.p
    assert reading(found)[0].startswith("Mean score above sparse's after Holm over 3 methods: ")


def test_the_best_come_first(pilot):
    found = report(pilot, list(records()))
    scores = [row.score.mean for row in found.rows["house_style"]]
    assert scores == sorted(scores, reverse=True)
    means = [verdict.difference.mean for verdict in found.family]
    assert means == sorted(means, reverse=True)


def test_too_few_seeds_are_not_tested(pilot):
    found = report(pilot, list(records()))
    assert {verdict.missing for verdict in found.family} == {"insufficient seeds"}
    needed = needed_seeds(len(found.methods) - 1)
    assert any(f"5 of {needed}" in line for line in reading(found))
    assert not any("after Holm" in line for line in reading(found))


def test_the_reading_follows_the_numbers(pilot):
    """With the baseline's and a method's runs exchanged, so is what is said of them."""
    runs = [r for r in grown(10) if r["method"] in ("sparse", "noise-aware")]
    other = {"sparse": "noise-aware", "noise-aware": "sparse"}
    exchanged = [run | {"method": other[run["method"]]} for run in runs]
    lines = reading(report(pilot, exchanged))
    assert lines[0].startswith("Mean score below sparse's after Holm over 1 methods: noise-aware")
    assert lines[1] == "No method is shown to have a mean score above sparse's."


def test_a_failed_run_counts(pilot):
    runs = [run for run in records() if run["method"] in ("sparse", "coca")]
    failed = [
        run | {"failed": "killed"} if (run["method"], run["seed"]) == ("coca", 0) else run
        for run in runs
    ]
    sound, broken = (
        next(row for row in report(pilot, each).rows["house_style"] if row.method == "coca")
        for each in (runs, failed)
    )
    assert (sound.target.share, broken.target.share) == (1, 0.8)
    mean = (4 * sound.target.queries.mean + 256) / 5
    assert broken.target.queries.mean == pytest.approx(mean)
    assert broken.score.seeds == 5
    assert broken.score.mean < sound.score.mean
    assert broken.failed == 1


def test_a_method_that_lacks_a_task_is_not_tested(tmp_path):
    path, text = tmp_path / "two.toml", protocol_text()
    task = text[text.index(HOUSE) : text.index("# No seed of the search")]
    path.write_text(text.replace(task, task + task.replace("house_style]", "another]")))
    runs = list(grown(10))
    found = report(load_protocol("standard", path), runs)
    assert (found.runs, found.wanted) == (len(runs), 2 * len(runs))
    assert reading(found)[0].startswith(f"{len(runs)} of {2 * len(runs)} runs")
    assert all(verdict.missing == "no common seeds" for verdict in found.family)
    assert not found.stability


def test_without_records_the_report_says_so(tmp_path):
    arguments = ["report", *write(tmp_path, []), "--output", str(tmp_path)]
    main(arguments)
    main([*arguments, "--check"])
    for name in ("LEADERBOARD.md", "docs/leaderboard.html"):
        assert NOTHING in (tmp_path / name).read_text()


def test_inputs_that_cannot_be_read(pilot, tmp_path):
    first = next(records())
    for change, message in (
        ({"schema": 7}, "expected schema 1, got 7"),
        ({"protocol": {"name": "v0", "hash": "0" * 64}}, "one of 0000"),
        ({"task": "other"}, "unknown task 'other'"),
    ):
        folder = tmp_path / message
        folder.mkdir()
        write(folder, [first | change])
        with pytest.raises(InvalidInputError, match=message):
            measured_records(pilot, folder / "results")
    unfixed = protocol_text().replace("untrained = 0.47\n", "")
    (tmp_path / "v0.toml").write_text(unfixed)
    with pytest.raises(InvalidInputError, match="untrained and best"):
        report(load_protocol("standard", tmp_path / "v0.toml"), [first])


def test_methods_are_compared_in_pairs_with_the_same_seeds(pilot):
    runs, task = sorted(grown(10), key=lambda run: run["seed"]), pilot.task("house_style")
    scores = {
        method: np.array([score(r, task) for r in runs if r["method"] == method])
        for method in ("coca", "noise-aware")
    }
    found = report(pilot, runs).pairs["house_style"]
    assert len(found) == 4 * 3
    both = stats.ttest_rel(scores["coca"], scores["noise-aware"]).confidence_interval(0.95)
    pair, other = found["coca", "noise-aware"], found["noise-aware", "coca"]
    assert (pair.advantage.low, pair.advantage.high) == pytest.approx((both.low, both.high))
    assert other.advantage.mean == pytest.approx(-pair.advantage.mean)
    assert other.times_fewer.mean == pytest.approx(1 / pair.times_fewer.mean)


def by_hand(runs, method, figure):
    """A figure of each of a method's runs, by seed."""
    return {run["seed"]: figure(run["curve"]) for run in runs if run["method"] == method}


def test_equal_denoiser_evaluations_are_those_that_were_spent_by_then(pilot):
    runs, task = list(records()), replace(pilot.task("house_style"), compared_at=3000)
    found = report(with_task(pilot, task), runs)

    def last_within(curve):
        return max((p["denoiser_evaluations"], p["reward"]) for p in curve if spent(p) <= 3000)[1]

    def spent(point):
        return point["denoiser_evaluations"]

    rewards = {m: by_hand(runs, m, last_within) for m in ("sparse", "nft", "coca")}
    rows = {row.method: row for row in found.rows["house_style"]}
    for method, values in rewards.items():
        assert rows[method].compared.mean == pytest.approx(
            task.score(np.mean(list(values.values())))
        )
    differences = [rewards["nft"][seed] - rewards["coca"][seed] for seed in rewards["nft"]]
    pair = found.pairs["house_style"]["nft", "coca"]
    assert pair.compared.mean * (0.95 - 0.47) == pytest.approx(np.mean(differences))
    assert "after 3,000 at most" in markdown.document(found, COVERED)


def test_drift_and_diversity_are_compared_where_both_first_have_the_reward(pilot):
    runs, task = list(records()), pilot.task("house_style")
    found = report(pilot, runs).pairs["house_style"]["coca", "noise-aware"]

    def first(name):
        def figure(curve):
            return next((p[name] for p in curve[1:] if p["reward"] >= task.target), None)

        return figure

    for name, pair in (
        ("kl_to_base", found.kl_at_target),
        ("diversity", found.diversity_at_target),
    ):
        own, other = (by_hand(runs, m, first(name)) for m in ("coca", "noise-aware"))
        both = [own[s] - other[s] for s in own if None not in (own[s], other[s])]
        expected = stats.ttest_1samp(both, 0).confidence_interval(0.95)
        assert (pair.low, pair.high) == pytest.approx((expected.low, expected.high))


def test_the_record_has_those_who_get_there_the_fastest_first(pilot):
    task = replace(pilot.task("house_style"), record=0.8)
    found = report(with_task(pilot, task), list(records()))
    rows = markdown.record_rows(found, task)
    queries = [float(re.match(r"\d+", row[2])[0]) for row in rows]
    assert queries == sorted(queries)
    there = {
        run["method"]
        for run in records()
        if max(point["reward"] for point in run["curve"][1:]) >= 0.8
    }
    assert {row[0] for row in rows} == there
    assert 0 < len(there) < len(found.methods)
    assert "fewest reward queries to 0.80" in markdown.document(found, COVERED)


def test_what_was_not_trained_on_is_shown_and_what_is_lost_is_said(pilot):
    def with_other(run, method, lost):
        other = (np.array(run["after"]["rewards"]) - lost * (1 + run["seed"] / 100)).tolist()
        after = run["after"] | {"other_rewards": {"clip_score": other}}
        return run | {"method": method, "after": after}

    coca = [run for run in records() if run["method"] == "coca"]
    first = coca[0]["after"]
    same = [run | {"after": first} for run in coca]
    runs = [
        with_other(run, method, lost)
        for method, lost in (("untrained", 0), ("sparse", 0), ("coca", 0.2))
        for run in same
    ]
    found = report(pilot, runs)
    values = [np.mean(run["after"]["other_rewards"]["clip_score"]) for run in runs[-len(coca) :]]
    row = next(row for row in found.rows["house_style"] if row.method == "coca")
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    own = row.others["clip_score"]
    assert (own.low, own.high) == pytest.approx((expected.low, expected.high))
    line = next(line for line in task_reading(found, "house_style") if "clip_score" in line)
    assert f"coca {own.mean:.2f} [" in line
    assert "sparse" not in line
    assert f"| coca | {own.mean:.3f} [" in markdown.document(found, COVERED)


def test_what_trains_nothing_has_no_queries(pilot):
    runs = list(records())
    still = [
        run
        | {
            "method": "untrained",
            "curve": run["curve"][:1],
            "spent": dict.fromkeys(run["spent"], 0),
        }
        for run in runs
        if run["method"] == "sparse"
    ]
    found = report(pilot, runs + still)
    row = next(row for row in found.rows["house_style"] if row.method == "untrained")
    assert row.target is row.baseline.times_fewer is None
    assert not any(
        "untrained" in line and "queries" in line for line in task_reading(found, "house_style")
    )


def test_pictures_of_runs_are_on_the_page(written, tmp_path):
    folder, arguments = written
    path = folder / "results/v0/house_style/coca/seed1.webp"
    Image.new("RGB", (20, 10)).save(path)
    with pytest.raises(SystemExit, match=r"docs/leaderboard.html"):
        main([*arguments, "--check"])
    main([*arguments[:-1], str(tmp_path)])
    page = (tmp_path / "docs/leaderboard.html").read_text()
    assert base64.b64encode(path.read_bytes()).decode() in page
    assert "after training with seed 1" in page
    path.unlink()
