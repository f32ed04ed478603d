import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common.advantages import GroupStatistics, PromptStatistics
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
