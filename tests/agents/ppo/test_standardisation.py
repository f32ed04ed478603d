import numpy as np
import pytest
import torch

from agents.ppo.standardisation import StepStandardisation, group_moments, pooled_moments
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.wrappers import credit_to_go

EVERYTHING = torch.ones(2, 2, dtype=torch.bool)


def steps_of(count: int, seed: int = 0, steps: int = 50) -> torch.Tensor:
    """A P_i of one prompt's trajectories under uniform credit."""
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(count, generator=generator)
    return advantages[:, None] * credit_to_go(torch.full((count, steps), 1 / steps))


def standardise(mode: str, values: torch.Tensor, **options: int) -> torch.Tensor:
    ids = torch.zeros(len(values), dtype=torch.int64)
    trained = torch.ones(values.shape, dtype=torch.bool)
    return StepStandardisation(mode, **options)(values, ids, trained).advantages


def test_moments_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0], [4.0, 8.0]])
    mean, std = pooled_moments(values, EVERYTHING)
    # Means 2 and 6, deviations 1 and 2: √((4 + 1 + 36 + 4) / 2 - 16).
    assert (mean.item(), std.item()) == (4.0, pytest.approx(6.5**0.5))


def test_moments_are_those_of_all_steps_where_trajectories_are_equally_long() -> None:
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    mean, std = pooled_moments(values, torch.ones(7, 5, dtype=torch.bool))
    torch.testing.assert_close(mean, values.mean())
    torch.testing.assert_close(std, values.std(correction=0))


def test_trajectories_weigh_the_same_however_many_of_their_steps_count() -> None:
    values = torch.tensor([[9.0, 9.0, 1.0], [2.0, 3.0, 4.0]])
    mask = torch.tensor([[False, False, True], [True, True, True]])
    mean, std = pooled_moments(values, mask)
    assert mean.item() == 2.0
    assert std.item() == pytest.approx(((1 + 29 / 3) / 2 - 4) ** 0.5)


def test_a_prompt_needs_enough_trajectories_for_moments_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 3, generator=generator)
    ids = torch.tensor([0] * 17 + [1] * 3)
    mask = torch.ones(20, 3, dtype=torch.bool)
    mask[0] = False  # 16 of prompt 0 remain
    mean, std = group_moments(values, ids, mask, 16)
    own, whole = (pooled_moments(values[rows], mask[rows]) for rows in (slice(1, 17), slice(1, 20)))
    for found, of_prompt, of_batch in zip((mean, std), own, whole, strict=True):
        torch.testing.assert_close(found, torch.cat([of_prompt.repeat(17), of_batch.repeat(3)]))
    fallback, _ = group_moments(values, ids, mask, 17)
    torch.testing.assert_close(fallback, whole[0].repeat(20))


@pytest.mark.parametrize("mode", ["unit_variance", "scale", "center"])
def test_the_result_has_unit_variance(mode: str) -> None:
    values = 0.01 * steps_of(32).clamp(-1.5, 1.5) + 0.005
    found = standardise(mode, values)
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    shift = found.mean().item()
    assert abs(shift) < 1e-4 if mode == "center" else shift > 0.5


def test_unit_variance_takes_the_whole_round_and_scale_the_prompt() -> None:
    values = torch.cat([steps_of(16), 100 * steps_of(16, seed=1)])
    ids = torch.arange(2).repeat_interleave(16)
    mask = torch.ones(values.shape, dtype=torch.bool)
    whole = StepStandardisation("unit_variance")(values, ids, mask).advantages
    torch.testing.assert_close(whole, values / (values.std(correction=0) + 1e-6))
    scaled = StepStandardisation("scale")(values, ids, mask).advantages
    assert scaled[:16].std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert scaled[16:].std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_untrained_steps_take_no_part() -> None:
    values = steps_of(20)
    mask = torch.ones(values.shape, dtype=torch.bool)
    mask[:, :40] = False
    ids = torch.zeros(20, dtype=torch.int64)
    found = StepStandardisation("center")(values, ids, mask)
    assert (found.advantages[:, :40] == 0).all()
    expected = standardise("center", values[:, 40:])
    torch.testing.assert_close(found.advantages[:, 40:], expected)


def test_results_are_clipped() -> None:
    values = torch.zeros(40, 10)
    values[3, 4] = 1.0
    assert standardise("scale", values)[3, 4] == 5.0


def test_centring_turns_signs_round_in_small_groups_and_scaling_never_does() -> None:
    def wrong(mode: str, count: int) -> float:
        standardisation = StepStandardisation(mode, min_count=1)
        shares = []
        for seed in range(200):
            values = steps_of(count, seed)
            ids, trained = torch.zeros(count), torch.ones(values.shape, dtype=torch.bool)
            shares.append(standardisation(values, ids, trained).wrong_signs)
        return float(np.mean(shares))

    assert wrong("center", 1) == pytest.approx(0.50, abs=0.02)
    assert 0.15 < wrong("center", 8) < 0.22
    assert 0.07 < wrong("center", 32) < 0.12
    assert wrong("scale", 1) == wrong("unit_variance", 8) == 0.0


def test_nothing_to_train_is_no_error() -> None:
    found = StepStandardisation("center")(steps_of(4), torch.zeros(4), torch.zeros(4, 50).bool())
    assert (found.advantages == 0).all()
    assert found.wrong_signs == 0.0


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(DiffusionGymError, match="'centre'; known: center, scale, unit_variance"):
        StepStandardisation("centre")
