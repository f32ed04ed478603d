"""The vector environment's checker passes sound environments and finds broken promises."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper

from diffusion_gym import check_vector_env


def make_vec(**kwargs):
    return gymnasium.make_vec("DiffusionT2I-v0", num_envs=2, num_inference_steps=2, **kwargs)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("array_type", ["numpy", "torch"])
def test_sound_environments_pass(array_type, mode):
    check_vector_env(make_vec(array_type=array_type, autoreset_mode=mode))


class Broken(VectorWrapper):
    """Lets a test spoil what step returns."""

    spoil = staticmethod(lambda result: result)

    def step(self, actions):
        return tuple(self.spoil(list(super().step(actions))))


def rewards_early(result):
    result[1] = result[1] + 0.1
    return result


def truncates(result):
    result[3] = ~result[3]
    return result


def forgets_the_prompt(result):
    result[4].pop("prompt_id")
    return result


def changes_the_latent(result):
    result[0]["latent"] = result[0]["latent"] + np.float32(0.01)
    return result


def leaves_the_space(result):
    result[0]["timestep"] = result[0]["timestep"] - 2000
    return result


def is_random(result):
    result[1] = result[1] + np.random.default_rng().random(2)
    return result


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rewards_early, "rewards of 0 before the last step"),
        (truncates, "no truncation"),
        (forgets_the_prompt, "'prompt_id' in every info"),
        (changes_the_latent, "set_state to bring the observation back"),
        (leaves_the_space, "'timestep' inside its space"),
        (is_random, r"differs after a second reset\(seed=0\)"),
    ],
)
def test_broken_promises_are_found(spoil, message):
    envs = Broken(make_vec())
    envs.spoil = spoil
    with pytest.raises(AssertionError, match=message):
        check_vector_env(envs)


def test_rows_that_are_seeded_alike_are_found():
    class SameSeed(VectorWrapper):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None if seed is None else [seed] * 2, options=options)

    with pytest.raises(AssertionError, match="row 1 to equal the single environment at step 0"):
        check_vector_env(SameSeed(make_vec()))
