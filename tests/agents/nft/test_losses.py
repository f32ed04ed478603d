"""The losses against numbers of another hand, and what they must do."""

import json
from pathlib import Path
from typing import Any

import diffusers
import forward_oracle as oracle
import official_lines as official
import pytest
import torch

from agents.nft.config import NFTConfig
from agents.nft.losses import (
    ForwardLog,
    Predictions,
    forward_loss,
    nft_loss,
    self_normalised_error,
)
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.schedules.registry import make_schedule

STORED = Path(__file__).parent
EXPECTED = json.loads((STORED / "forward_oracle.json").read_text())
OFFICIAL = json.loads((STORED / "official_lines.json").read_text())
SOURCES = OFFICIAL.pop("sources")


def schedule_of(kind: str) -> Schedule:
    if kind == "flow":
        return make_schedule(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 10)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        clip_sample=False,
    )
    return make_schedule(scheduler, 10)


def tensors(kind: str) -> list[torch.Tensor]:
    """x0, noise, and the outputs of trained, old and base network, as the oracle has them."""
    return [torch.tensor(values, dtype=torch.float32) for values in oracle.inputs()]


def check_loss_and_gradient(name: str, expected: dict[str, Any], tolerance: float) -> ForwardLog:
    """Compares ours, in float32, with stored numbers."""
    kind, _, case = name.partition(": ")
    config = NFTConfig(**oracle.CASES[case])
    schedule = schedule_of(kind)
    times = oracle.TIMESTEPS["flow" if kind == "flow" else "ddpm"]
    timesteps = torch.tensor(times)
    clean, noise, output, old, base = tensors(kind)
    output.requires_grad_(True)
    noisy = schedule.add_noise(clean, noise, timesteps)
    predicted, old, base = (schedule.clean_at(one, noisy, timesteps) for one in (output, old, base))
    loss, log = forward_loss(
        config,
        Predictions(clean, predicted, old, base if config.reference_coef else None),
        torch.tensor(oracle.ADVANTAGES, dtype=torch.float32).clamp(-5, 5),
        schedule.noise_scale(timesteps),
        timesteps / 1000,
    )
    loss.backward()
    gradient = torch.tensor(expected["gradient"])
    assert loss.item() == pytest.approx(expected["loss"], rel=tolerance)
    assert output.grad is not None
    error = (output.grad.flatten() - gradient).abs().max()
    assert error < tolerance * gradient.abs().max()
    return log


@pytest.mark.parametrize("name", EXPECTED)
def test_loss_and_gradient_are_the_oracles(name: str) -> None:
    """Stored numbers of `forward_oracle`: NumPy, double precision, central differences."""
    log = check_loss_and_gradient(name, EXPECTED[name], 1e-4)
    config = NFTConfig(**oracle.CASES[name.partition(": ")[2]])
    assert bool(log.reference_deviation.isnan()) == (not config.reference_coef)
    assert bool(log.clip_fraction.isnan()) == (config.loss == "nft")


@pytest.mark.parametrize("name", OFFICIAL)
def test_loss_and_gradient_are_those_of_the_authors_lines(name: str) -> None:
    """Stored numbers of `official_lines`: the released code itself, run on the same tensors."""
    check_loss_and_gradient(name, OFFICIAL[name], 1e-5)


def test_every_case_was_run_with_the_lines_that_are_named() -> None:
    assert set(OFFICIAL) == {name for name in EXPECTED if name.startswith("flow: ")}
    assert json.loads(json.dumps([official.NFT, official.AWM])) == SOURCES


def test_the_stored_numbers_are_those_that_the_oracle_computes() -> None:
    for kind in oracle.KINDS:
        for name, case in oracle.CASES.items():
            loss, output = oracle.loss_of(kind, case)
            assert loss(output) == pytest.approx(EXPECTED[f"{kind}: {name}"]["loss"], rel=1e-7)


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, old = torch.randn(2, 3, 4, 5, 5, generator=generator)
    return clean, old.clone().requires_grad_(True), old


def test_good_images_pull_and_bad_ones_push(predictions: Any) -> None:
    """From v = v_old, a step down the gradient of ∓A moves x̂0 straight to x0, or away."""
    clean, predicted, old = predictions
    advantages = torch.tensor([2.0, -2.0, 0.0])
    losses = nft_loss(clean, predicted, old, advantages, beta=1.0, advantage_clip=5.0)
    losses.sum().backward()
    moved = -predicted.grad
    towards = (moved * (clean - old)).flatten(1).sum(1)
    assert towards[0] > 0 > towards[1]
    assert moved[2].abs().max() < 1e-6 * moved[0].abs().max()
    cosine = torch.cosine_similarity(moved.flatten(1), (clean - old).flatten(1))
    torch.testing.assert_close(cosine[:2], torch.tensor([1.0, -1.0]))


def test_the_gradient_at_the_old_weights_does_not_depend_on_beta(predictions: Any) -> None:
    clean, predicted, old = predictions
    gradients = []
    for beta in (1.0, 0.1):
        advantages = torch.tensor([2.0, -2.0, 1.0])
        losses = nft_loss(clean, predicted, old, advantages, beta=beta, advantage_clip=5.0)
        gradients += torch.autograd.grad(losses.sum(), predicted)
    torch.testing.assert_close(*gradients)


def test_an_error_of_nothing_is_no_division_by_nothing() -> None:
    same = torch.ones(2, 1, 2, 2, requires_grad=True)
    error = self_normalised_error(same, torch.ones(2, 1, 2, 2))
    error.sum().backward()
    assert error.tolist() == [0.0, 0.0]
    assert same.grad is not None
    assert same.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 0.0), (1, 0.001), (100, 0.1), (499, 0.499), (500, 0.5), (9999, 0.5)]),
        ({"decay_rate": 0.0}, [(0, 0.0), (9999, 0.0)]),
        (
            {"decay_after": 75, "decay_rate": 0.0075, "decay_limit": 0.999},
            [(74, 0.0), (75, 0.0), (76, 0.0075), (175, 0.75), (9999, 0.999)],
        ),
    ],
)
def test_the_released_decays(options: Any, expected: list[tuple[int, float]]) -> None:
    """The three of the released code, by hand."""
    config = NFTConfig(**options)
    for rounds, decay in expected:
        assert config.decay(rounds) == pytest.approx(decay)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"awm_time_power": 1}, "awm_time_power belongs to loss='awm': expected none with 'nft'"),
        ({"loss": "awm", "beta": 0.5}, "beta belongs to loss='nft': expected none with 'awm'"),
        ({"loss": "elbo"}, "unknown loss 'elbo'"),
        ({"beta": 0}, "beta to be a number above 0"),
        ({"decay_limit": 1.5}, "decay_limit"),
        ({"awm_time_power": 3, "loss": "awm"}, "awm_time_power"),
        ({"learning_rate": lambda progress: 1 / 0}, "learning_rate .*ZeroDivisionError"),
    ],
)
def test_options_that_cannot_work(options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        NFTConfig(**options)
