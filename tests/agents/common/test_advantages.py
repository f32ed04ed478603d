import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import zscore

from agents.common.advantages import DecoupledAdvantages, GroupStatistics, PromptStatistics
from diffusion_gym.errors import InvalidInputError


def test_batch_statistics_until_a_prompt_has_enough_rewards() -> None:
    statistics = PromptStatistics(buffer_size=4, min_count=3)
    first = statistics.update([0, 0, 1], [1.0, 2.0, 6.0])
    np.testing.assert_allclose(first, np.array([-2.0, -1.0, 3.0]) / np.std([1, 2, 6]), rtol=1e-5)
    # Prompt 0 now has 1, 2, 3, 4: mean 2.5, population deviation sqrt(1.25); prompt 1 has two.
    second = statistics.update([0, 0, 1], [3.0, 4.0, 8.0])
    np.testing.assert_allclose(second[:2], np.array([0.5, 1.5]) / np.sqrt(1.25), rtol=1e-5)
    np.testing.assert_allclose(second[2], 3.0 / np.std([3, 4, 8]), rtol=1e-5)
    # The deque holds four: 3, 4, 5, 6.
    third = statistics.update([0, 0], [5.0, 6.0])
    np.testing.assert_allclose(third, np.array([0.5, 1.5]) / np.sqrt(1.25), rtol=1e-5)


def test_prompt_statistics_go_on_from_their_state() -> None:
    original, copy = PromptStatistics(8, 2), PromptStatistics(8, 2)
    original.update([0, 1, 0], [1.0, 2.0, 4.0])
    copy.load_state_dict(original.state_dict())
    batch = ([0, 1], [3.0, 5.0])
    np.testing.assert_array_equal(copy.update(*batch), original.update(*batch))
    np.testing.assert_array_equal(copy.update(*batch), original.update(*batch))


def test_groups_are_found_by_prompt_wherever_they_stand() -> None:
    advantages = GroupStatistics().update([5, 2, 5, 2], [1.0, 10.0, 3.0, 10.0])
    np.testing.assert_allclose(advantages, [-1.0, 0.0, 1.0, 0.0], atol=1e-5)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 50)), min_size=1, max_size=40),
    st.floats(0.5, 20),
    st.floats(-20, 20),
)
def test_group_advantages_do_not_see_scale_and_offset(
    batch: list[tuple[int, float]], scale: float, offset: float
) -> None:
    ids, rewards = np.array([i for i, _ in batch]), np.array([r for _, r in batch])
    spreads = [rewards[ids == i].std() for i in set(ids.tolist())]
    if min((s for s in spreads if s > 0), default=1.0) < 1e-2:
        return  # next to EPSILON the scale does matter
    plain = GroupStatistics().update(ids, rewards)
    scaled = GroupStatistics().update(ids, rewards * scale + offset)
    np.testing.assert_allclose(scaled, plain, atol=2e-3)
    for i in set(ids.tolist()):
        assert plain[ids == i].mean() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("buffer_size", "min_count"), [(15, 16), (4, 0)])
def test_a_buffer_must_hold_what_statistics_need(buffer_size: int, min_count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"min_count={min_count}.*={buffer_size}"):
        PromptStatistics(buffer_size, min_count)


IDS = np.repeat([4, 9, 7], 4)


def two_rewards() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"aesthetic": 5 + rng.normal(size=12), "jpeg": -100 + 40 * rng.normal(size=12)}


def decoupled(**weights: float) -> DecoupledAdvantages:
    return DecoupledAdvantages(weights, GroupStatistics)


def test_each_reward_is_normalised_by_itself_before_they_are_added() -> None:
    """GDPO's equations, by scipy: z-scores of groups, their weighted sum, its z-score."""
    rewards = two_rewards()
    groups = {
        name: zscore(values.reshape(3, 4), axis=1).ravel() for name, values in rewards.items()
    }
    expected = zscore(groups["aesthetic"] + 0.5 * groups["jpeg"])
    found = decoupled(aesthetic=1.0, jpeg=0.5).update(IDS, rewards)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Of the plain sum, nothing but the large reward is left.
    summed = GroupStatistics().update(IDS, rewards["aesthetic"] + 0.5 * rewards["jpeg"])
    assert np.corrcoef(summed, groups["jpeg"])[0, 1] > 0.99
    assert np.corrcoef(found, groups["aesthetic"])[0, 1] > 0.5


def test_no_scale_matters_but_the_weights() -> None:
    rewards = two_rewards()
    scaled = {"aesthetic": 1000 * rewards["aesthetic"] - 7, "jpeg": rewards["jpeg"] / 50}
    found = decoupled(aesthetic=1.0, jpeg=2.0).update(IDS, rewards)
    np.testing.assert_allclose(
        decoupled(aesthetic=1.0, jpeg=2.0).update(IDS, scaled), found, atol=1e-4
    )
    assert abs(decoupled(aesthetic=1.0, jpeg=0.0).update(IDS, rewards) - found).max() > 0.1


def test_rewards_that_differ_in_what_they_miss_keep_apart() -> None:
    """The paper's example: with two binary rewards, (0, 1) and (0, 2) are one for the plain sum."""
    both = {"a": np.array([0.0, 1.0, 0.0, 1.0]), "b": np.array([0.0, 0.0, 0.0, 1.0])}
    ids = np.array([0, 0, 1, 1])
    summed = GroupStatistics().update(ids, both["a"] + both["b"])
    assert summed[1] == pytest.approx(summed[3], abs=1e-5)
    found = decoupled(a=1.0, b=1.0).update(ids, both)
    assert found[3] > found[1] + 0.5


def test_constant_rewards_and_empty_batches_have_no_advantage() -> None:
    constant = {"a": np.full(4, 0.1), "b": np.full(4, 1e6)}
    assert np.abs(decoupled(a=1.0, b=1.0).update(np.zeros(4, int), constant)).max() < 1e-3
    assert decoupled(a=1.0).update([], {"a": []}).shape == (0,)
    with pytest.raises(InvalidInputError, match="got none for b"):
        decoupled(a=1.0, b=1.0).update([0], {"a": [1.0]})


def test_each_reward_has_running_statistics_that_can_be_resumed() -> None:
    def make() -> DecoupledAdvantages:
        return DecoupledAdvantages({"aesthetic": 1.0, "jpeg": 0.5}, lambda: PromptStatistics(8, 4))

    whole, first, second = make(), make(), make()
    rewards = two_rewards()
    more = {name: values[::-1] * 2 for name, values in rewards.items()}
    whole.update(IDS, rewards)
    first.update(IDS, rewards)
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(second.update(IDS, more), whole.update(IDS, more))
    assert second.state_dict() == whole.state_dict()
    for name, part in whole.state_dict().items():
        alone = PromptStatistics(8, 4)
        alone.update(IDS, rewards[name])
        alone.update(IDS, more[name])
        assert part == alone.state_dict()
