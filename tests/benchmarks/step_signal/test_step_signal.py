"""Signal and noise: of made-up gradients whose moments are known, and of the embedded model."""

import json

import numpy as np
import pytest

from agents import train
from agents.runs.builders import make_agent, make_env
from agents.runs.settings import TrainSettings
from benchmarks.step_signal import report
from benchmarks.step_signal.__main__ import main, measure
from benchmarks.step_signal.moments import (
    Moments,
    cross_validated,
    jackknife,
    measured_weights,
    moments,
)
from benchmarks.step_signal.weightings import weightings
from diffusion_gym.models import load_model
from diffusion_gym.schedules.ddim import DDIMSchedule

STEPS, SIZE = 3, 400
MEANS = np.outer([1.0, 0.5, -0.2], np.ones(SIZE) / np.sqrt(SIZE))  # parallel, ‖m‖ = 1, .5, .2
SPREAD = np.array([0.5, 2.0, 1.0])  # √E‖e‖²


def drawn(batches, rng):
    errors = rng.standard_normal((batches, STEPS, SIZE)) / np.sqrt(SIZE) * SPREAD[:, None]
    gradients = MEANS + errors
    flat = gradients.reshape(batches * STEPS, SIZE)
    return (flat @ flat.T).reshape(batches, STEPS, batches, STEPS)


def test_signal_and_noise_are_unbiased():
    rng = np.random.default_rng(0)
    found = [moments(drawn(4, rng)) for _ in range(400)]
    signal = np.mean([each.signal for each in found], 0)
    noise = np.mean([each.noise for each in found], 0)
    np.testing.assert_allclose(signal, MEANS @ MEANS.T, atol=0.03)
    np.testing.assert_allclose(noise, np.diag(SPREAD**2), atol=0.05)
    # The naive estimate, of the mean gradient's own square, is not.
    naive = np.mean([drawn(4, rng).mean((0, 2)) for _ in range(400)], 0)
    assert naive[1, 1] > 1.0


def test_many_batches_tell_everything():
    found = moments(drawn(3000, np.random.default_rng(1)))
    np.testing.assert_allclose(found.signal_norm, [1, 0.5, 0.2], atol=0.03)
    np.testing.assert_allclose(found.noise_norm, SPREAD, atol=0.03)
    assert found.cosines[0, 1] == pytest.approx(1, abs=0.1)
    assert found.cosines[0, 2] == pytest.approx(-1, abs=0.2)
    # Parallel signals: the best weights are signal / noise², with the signs of the signals.
    expected = np.array([1.0, 0.5, -0.2]) / SPREAD**2
    np.testing.assert_allclose(found.best_weights(), expected / expected[0], atol=0.05)
    assert found.signal_to_noise(np.array([1.0, 0, 0])) == pytest.approx(4, rel=0.05)
    best = found.signal_to_noise(found.best_weights())
    for weights in np.random.default_rng(2).standard_normal((200, STEPS)):
        assert found.signal_to_noise(weights) <= best + 1e-9


def test_the_jackknife_knows_the_error():
    rng = np.random.default_rng(3)

    def statistic(each):
        return each.signal[0, 0]

    values, errors = zip(*(jackknife(drawn(6, rng), statistic) for _ in range(300)), strict=True)
    # Of a variance, by resampling: somewhat too careful in small samples.
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_weights_fitted_to_noise_are_worth_nothing_elsewhere():
    rng = np.random.default_rng(4)
    gradients = rng.standard_normal((8, STEPS, SIZE)).reshape(8 * STEPS, SIZE)
    products = (gradients @ gradients.T).reshape(8, STEPS, 8, STEPS)
    found = moments(products)
    assert found.signal_to_noise(found.best_weights()) > 0
    elsewhere = [cross_validated(drawn_noise(rng), Moments.best_weights) for _ in range(50)]
    assert np.mean(elsewhere) == pytest.approx(0, abs=0.01)
    assert measured_weights(Moments(-np.eye(3), np.eye(3))).tolist() == [1, 1, 1]


def drawn_noise(rng):
    flat = rng.standard_normal((8 * STEPS, SIZE))
    return (flat @ flat.T).reshape(8, STEPS, 8, STEPS)


def test_the_table_has_cosines_where_signals_are_seen():
    products = drawn(40, np.random.default_rng(5))
    case = report.figures(products, SPREAD, {"all alike": np.ones(STEPS)}) | {
        key: "" for key in ("model", "reward", "policy", "weights", "images")
    }
    case["steps"] = list(range(STEPS))
    found = moments(products)
    assert found.cosines[0, 1] == pytest.approx(1, abs=0.3)
    lines = report.document({"made up": case}).splitlines()
    (row,) = (line for line in lines if line.startswith("| cosine"))
    assert row.split(" | ")[1:3] == ["—", f"{found.cosines[0, 1]:.2f}"]
    case["signal_squared_error"] = [0, 1, 0]  # now the second step's signal is not told from none
    assert "step before | — | — | — |" in report.document({"made up": case})


def schedule(prediction):
    scheduler = load_model("emoji-64").scheduler
    changed = type(scheduler).from_config(scheduler.config, prediction_type=prediction)
    return DDIMSchedule.from_scheduler(changed, 10)


def test_weightings():
    of_velocity = weightings(schedule("v_prediction"))
    g = schedule("v_prediction").gradient_scale.double().numpy()
    np.testing.assert_allclose(of_velocity["g^-2"], (g / g.min()) ** -2, rtol=1e-6)
    assert of_velocity["last step masked"].tolist() == [1] * 9 + [0]
    assert {weights.max() for weights in of_velocity.values()} == {1}
    assert "g^-2 of v" not in of_velocity
    of_noise = weightings(schedule("epsilon"))
    np.testing.assert_allclose(of_noise["g^-2 of v"], of_velocity["g^-2"], rtol=1e-4)


@pytest.mark.slow
def test_the_noise_of_real_gradients_is_the_schedules():
    settings = TrainSettings.of(num_envs=16)
    env = make_env(settings)
    case = measure(settings, make_agent(settings, env).policy, env, 6)
    scale = DDIMSchedule.from_scheduler(load_model("emoji-64").scheduler, 10).gradient_scale
    np.testing.assert_allclose(case["gradient_scale"], scale, rtol=1e-6)
    # Over a range of 1 : 112, the same but for a quarter (few batches: somewhat more).
    assert all(0.7 < ratio < 1.4 for ratio in case["noise_over_scale"])


@pytest.mark.slow
def test_the_command_adds_a_case_to_those_before(tmp_path, capsys):
    tiny = {
        "--batches": "4",
        "--results": str(tmp_path),
        "--num-envs": "4",
        "--samples-per-prompt": "4",
    }
    tiny_options = [part for option in tiny.items() for part in option]
    main([*tiny_options, "--name", "one", "--picture"])
    assert "g^-2" in capsys.readouterr().out
    assert (tmp_path / "step_signal.png").stat().st_size > 10_000
    main([*tiny_options, "--name", "two", "--lora-rank", "2"])
    cases = json.loads((tmp_path / "step_signal.json").read_text())
    assert {name: case["weights"] for name, case in cases.items()} == {
        "one": "all weights",
        "two": "LoRA of rank 2",
    }
    assert {case["images"] for case in cases.values()} == {4}
    assert (tmp_path / "step_signal.md").read_text() == report.document(cases)


@pytest.mark.slow
def test_a_run_of_any_agent_that_ended_before_its_time(tmp_path, capsys):
    run, sizes = tmp_path / "run", ["--num-envs", "4", "--samples-per-prompt", "4"]
    early = "--images 12 --eval-every 1 --max-kl 1e-12 --eval-prompts 1 --picture-every 0".split()
    nft = ["--algorithm", "nft", "--reward", "jpeg_compressibility"]
    assert train.main([*nft, *sizes, *early, "--output", str(run)]) == 0
    main(["--run", str(run), "--batches", "4", "--results", str(tmp_path)])
    (case,) = json.loads((tmp_path / "step_signal.json").read_text()).values()
    assert (case["policy"], case["images"]) == ("after 4 images of nft", 4)
    with pytest.raises(SystemExit):
        main([*nft, *sizes, "--eta", "0", "--results", str(tmp_path)])
    assert "expected steps with noise" in capsys.readouterr().err


def test_too_few_batches_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--batches", "3"])
    assert "at least 4" in capsys.readouterr().err
