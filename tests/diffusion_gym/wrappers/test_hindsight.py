"""The hindsight protocol's defaults and checks."""

import dataclasses

import numpy as np
import pytest
import torch

from diffusion_gym import FinishedEpisodes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers import hindsight, step_rewards
from diffusion_gym.wrappers.hindsight import credit_of, credit_to_go, restrict_credit


def episodes(kind, **extras):
    return FinishedEpisodes(
        rows=kind([0, 2]),
        prompt_id=kind([5, 1]),
        image=kind(np.zeros((2, 4, 4, 3), np.uint8)),
        returns=kind(np.array([0.5, 0.0], np.float32)),
        reward_valid=kind([True, False]),
        reward_terms={},
        extras={key: kind(value) for key, value in extras.items()},
    )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_defaults_are_those_of_a_terminal_reward(kind):
    known = hindsight(episodes(kind), num_steps=3)
    assert type(known.credit) is type(known.step_mask) is type(kind([0]))
    assert known.credit.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert known.step_weight.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert known.step_mask.tolist() == [[True] * 3, [False] * 3]
    assert known.advantage is None


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_what_wrappers_wrote_is_kept(kind):
    credit = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    mask = [[False, True, True], [True, True, True]]
    written = episodes(kind, credit=credit, step_mask=mask, advantage=[1.5, -2.0])
    known = hindsight(written, num_steps=3)
    assert known.credit.tolist() == credit
    assert known.step_weight.tolist() == [[1.0, 0.5, 0.25], [1.0, 0.0, 0.0]]
    assert known.step_mask.tolist() == [mask[0], [False] * 3]
    assert known.advantage.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"credit": [[1.0, 0.0]] * 2}, r"credit of shape \(2, 3\) in the infos, got \(2, 2\)"),
        ({"step_mask": [[True] * 3]}, r"step_mask of shape \(2, 3\) in the infos, got \(1, 3\)"),
        ({"step_weight": [1.0, 1.0]}, r"step_weight of shape \(2, 3\) in the infos, got \(2,\)"),
        ({"step_weight": [[1.0, 1, 1], [0.0, 0, 0]]}, "got zeros alone"),
        ({"advantage": [[1.0], [2.0]]}, r"advantage of shape \(2,\) in the infos, got \(2, 1\)"),
    ],
)
def test_wrong_shapes(extras, message):
    with pytest.raises(InvalidInputError, match=message):
        hindsight(episodes(np.asarray, **extras), num_steps=3)


def test_step_rewards_share_out_the_return():
    credit = torch.tensor([[0.5, -0.25, 0.75], [0.0, 0.0, 1.0]])
    dense = step_rewards(credit, torch.tensor([4.0, -2.0]))
    assert dense.tolist() == [[2.0, -1.0, 3.0], [0.0, 0.0, -2.0]]
    assert step_rewards(credit.numpy(), np.array([4.0, -2.0])).tolist() == dense.tolist()


def test_restricted_credit():
    credit = torch.tensor(
        [
            [0.25, 0.25, 0.2, 0.3],  # half of it lies inside
            [0.5, 0.5, 0.5, -0.5],  # none in sum: uniform over the mask
            [0.5, 1.0, 0.5, -1.0],  # less than none: uniform, not reversed
            [0.4, 0.3, 0.2, 0.1],  # nothing is trained: as it was
        ]
    )
    mask = torch.tensor([[False, False, True, True]] * 3 + [[False] * 4])
    expected = [[0, 0, 0.4, 0.6], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1]]
    torch.testing.assert_close(restrict_credit(credit, mask), torch.tensor(expected))


# ----------------------------------------------------------------- weights and credit


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_weights_bring_the_credit_that_belongs_to_them(kind):
    known = hindsight(episodes(kind, step_weight=[[2.0, 1.0, 0.5], [0.0, 2.0, 1.0]]), num_steps=3)
    assert known.step_weight.tolist() == [[2.0, 1.0, 0.5], [0.0, 2.0, 1.0]]
    assert known.credit.tolist() == [[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]


def test_who_writes_both_channels_is_believed():
    written = episodes(
        np.asarray, credit=[[0.5, 0.25, 0.25]] * 2, step_weight=[[4.0, 2.0, 1.0]] * 2
    )
    known = hindsight(written, num_steps=3)
    assert known.credit.tolist() == [[0.5, 0.25, 0.25]] * 2
    assert known.step_weight.tolist() == [[4.0, 2.0, 1.0]] * 2


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("credit", [0.5, 0.25, 0.25], [0, 0, 1]),
        ("step_weight", [3.0, 2.0, 1.0], [1, 1, 1]),
        ("step_mask", [False, True, True], [True, True, True]),
        ("advantage", 2.5, np.nan),
    ],
)
def test_episodes_that_lack_a_key_get_the_default(kind, key, value, default):
    """As in Gymnasium's vector environments, where rows may be wrapped differently."""
    zero = np.zeros_like(value)
    written = dataclasses.replace(
        episodes(kind, **{key: np.stack([value, zero])}),
        reward_valid=kind([True, True]),
        extras_mask={key: kind([True, False])},
    )
    found = getattr(hindsight(written, num_steps=3), key)
    assert found[0].tolist() == value
    np.testing.assert_array_equal(found[1], default)


def test_sums_of_the_credit_are_proportional_to_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(50, 7, generator=generator, dtype=torch.float64) + 0.01
    weights[:, 3] = 0  # in the middle, too
    weights[::2, -1] *= -1
    credit = credit_of(weights)
    torch.testing.assert_close(credit_to_go(credit), weights / weights[:, :1])
    torch.testing.assert_close(credit.sum(1), torch.ones(50, dtype=torch.float64))


def test_ones_are_ddpos_credit():
    assert credit_of(torch.ones(1, 4)).tolist() == [[0, 0, 0, 1]]
    back = credit_to_go(credit_of(torch.ones(1, 4)))
    assert torch.equal(back, torch.ones(1, 4))


def test_steps_before_the_first_weight_get_no_credit():
    credit = credit_of(torch.tensor([[0.0, 0.0, 4.0, 1.0]]))
    assert credit.tolist() == [[0, 0, 0.75, 0.25]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], "some are not 0 in every episode, got zeros alone"),
        ([[1.0, float("nan")]], "finite step weights, got NaN or infinity"),
        ([[float("inf"), 1.0]], "finite step weights, got NaN or infinity"),
        ([1.0, 2.0], r"weights \[N, T\], got \[2\]"),
        ([[0.0, -0.5, 1.0]], "begin positive, got -0.5 as the first that is not 0"),
    ],
)
def test_weights_that_no_credit_belongs_to(weights, message):
    with pytest.raises(InvalidInputError, match=message):
        credit_of(torch.tensor(weights))
