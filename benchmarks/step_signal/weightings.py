"""The weights of steps that are compared."""

import numpy as np

from benchmarks.step_signal.moments import Array
from diffusion_gym.schedules.base import Schedule


def weightings(schedule: Schedule) -> dict[str, Array]:
    """Weights P of the steps that have noise, ``[T]`` each, the greatest of them 1, by name.

    Args:
        schedule: The sampler's.
    """
    trained = schedule.stochastic.cpu().numpy()
    g = schedule.gradient_scale.cpu().double().numpy()[trained]
    std = schedule.std.cpu().double().numpy()[trained]
    velocity = schedule.velocity_scale.cpu().double().numpy()[trained]
    steps = len(g)
    ones = np.ones(steps)
    falling = (steps - np.arange(steps)) / steps
    but_last = np.arange(steps) < steps - 1
    weights = {
        "all alike (DDPO)": ones,
        "last step masked": ones * but_last,
        "uniform credit": falling,
        "uniform, last masked": falling * but_last,
        "1/g (PCPO)": 1 / g,
        "g^-1.5": g**-1.5,
        "g^-2": g**-2,
        "g^-3": g**-3,
        "σ/g": std / g,
        "first step only": ones * (np.arange(steps) == 0),
    }
    if not np.allclose(velocity, velocity[0]):
        weights["g^-2 of v"] = velocity**2 / g**2
        weights["g^-2, signals of v"] = velocity / g**2
    return {name: value / value.max() for name, value in weights.items()}
