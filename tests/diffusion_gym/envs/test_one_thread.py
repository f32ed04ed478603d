"""One environment in two threads."""

import copy
import pickle
import threading
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ResetNeeded

from diffusion_gym.envs._one_thread import OneThread, one_thread
from diffusion_gym.rewards import register_reward

TASK = {"num_inference_steps": 1, "prompts": ["a cat"], "reward": "waits"}


@pytest.fixture(params=[gymnasium.make, gymnasium.make_vec], ids=["single", "vector"])
def waiting(request):
    """An environment whose step waits in its reward; two events: it is there, it may go on."""
    there, go_on = threading.Event(), threading.Event()

    @register_reward("waits")
    def make_waits(device):
        def reward(images, prompts):
            there.set()
            assert go_on.wait(30)
            return images.mean((1, 2, 3))

        return reward

    return request.param("DiffusionT2I-v0", **TASK).unwrapped, there, go_on


def test_a_second_thread_is_refused_and_the_first_goes_on(waiting):
    env, there, go_on = waiting
    observation, _ = env.reset(seed=0)
    results = []
    first = threading.Thread(target=lambda: results.append(env.step(observation["latent"])))
    first.start()
    assert there.wait(30)
    state = env.get_state()
    for name, call in {
        "step": lambda: env.step(observation["latent"]),
        "reset": lambda: env.reset(seed=1),
        "set_state": lambda: env.set_state(state),
    }.items():
        with pytest.raises(
            AlreadyPendingCallError, match=rf"one thread at a time.* got {name}\(\)"
        ):
            call()
    go_on.set()
    first.join(30)
    assert np.all(results[0][2])  # terminated
    env.reset(seed=1)  # the next one may


def test_the_steps_of_two_threads_never_add_up_to_more_than_there_are():
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0",
        num_envs=2,
        autoreset_mode="Disabled",
        **TASK | {"reward": "jpeg_compressibility", "num_inference_steps": 3},
    )
    observation, _ = envs.reset(seed=0)
    highest = []

    def work():
        for _ in range(200):
            try:
                envs.step(observation["latent"])
                envs.reset()
            except (AlreadyPendingCallError, ResetNeeded):  # refused, or nothing to step
                continue
            finally:
                highest.append(envs.get_state().step_index.max())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(highest) <= 3


class Counter:
    def __init__(self):
        self._one_thread = OneThread()
        self.count = 0

    @one_thread
    def add(self, number=1):
        """Adds."""
        self.count += number
        return self.count

    @one_thread
    def add_two(self):
        return self.add() + self.add() - self.count

    @one_thread
    def fail(self):
        raise KeyError("x")

    def unguarded(self, number=1):
        self.count += number
        return self.count


def test_methods_may_call_each_other_and_fail():
    counter = Counter()
    assert counter.add_two() == 1
    with pytest.raises(KeyError):
        counter.fail()
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(counter.add(number=3)))
    thread.start()
    thread.join(30)
    assert outcome == [5]
    assert (counter.add.__name__, counter.add.__doc__) == ("add", "Adds.")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_lets_its_own_thread_in(copied):
    counter = Counter()
    assert counter._one_thread.enter()
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(copied(counter).add()))
    thread.start()
    thread.join(30)
    assert outcome == [1]


def test_it_costs_next_to_nothing():
    """Less than two microseconds a call, of which many environments' steps take hundreds."""
    counter = Counter()

    def fastest(call):
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(1000):
                call()
            seconds.append((time.perf_counter() - start) / 1000)
        return min(seconds)

    assert fastest(counter.add) - fastest(counter.unguarded) < 2e-6
