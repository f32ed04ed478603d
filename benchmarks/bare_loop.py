"""The yardstick: PPO on the embedded model in one file, without environment, SB3 or agents/.

Same algorithm and settings as ``python -m agents.train --shaping sparse``:
rounds of 8 prompts x 8 samples,
group-normalised advantages, AdamW on all weights, 4 updates a round, clip range 2e-3 on the mean
log-probability. What the environment and the agent add must cost next to nothing beside it
(``python -m benchmarks.versus_bare_loop`` measures that).

Run: ``python -m benchmarks.bare_loop --images 1216``
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.models import load_model
from diffusion_gym.prompts import load_prompts
from diffusion_gym.rewards import make_reward

T, PROMPTS, SAMPLES, UPDATES, CLIP = 10, 8, 8, 4, 2e-3


class BareLoop:
    """Everything the loop needs, and nothing else."""

    def __init__(self, seed: int, reward: str = "house_style", learning_rate: float = 2e-4) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.model = load_model("emoji-64")
        self.reward = make_reward(reward)
        self.unet = self.model.new_denoiser().network.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), learning_rate, weight_decay=1e-4)
        scheduler = self.model.scheduler
        scheduler.set_timesteps(T)
        self.t: Tensor = scheduler.timesteps
        alphas: Tensor = scheduler.alphas_cumprod
        previous = self.t - 1000 // T
        self.alpha = alphas[self.t].view(T, 1, 1, 1)
        after = torch.where(previous >= 0, alphas[previous], scheduler.final_alpha_cumprod)
        self.after = after.view(T, 1, 1, 1)
        variance = (1 - self.after) / (1 - self.alpha) * (1 - self.alpha / self.after)
        self.std = variance.sqrt()
        self.direction = (1 - self.after - variance).clamp(min=0).sqrt()

    def mean(self, x: Tensor, i: Tensor, prompts: Tensor) -> Tensor:
        """Mean of one DDIM step (eta 1) with v-prediction, for step indices ``i`` of each row."""
        v: Tensor = self.unet(x, self.t[i], prompts, return_dict=False)[0]
        a, b = self.alpha[i].sqrt(), (1 - self.alpha[i]).sqrt()
        clean, noise = a * x - b * v, a * v + b * x
        return self.after[i].sqrt() * clean + self.direction[i] * noise

    def log_prob(self, x: Tensor, mean: Tensor, i: Tensor) -> Tensor:
        """Gaussian log-density without its constants, averaged over latent dimensions."""
        return (-((x - mean) ** 2) / (2 * self.std[i] ** 2)).mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, prompts: list[str]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Latents, log-probabilities, embeddings and rewards of one image per prompt."""
        embedding = self.model.encode(prompts).tokens
        latents, log_probs = [torch.randn(len(prompts), *self.model.latent_shape)], []
        for step in range(T):
            i = torch.full((len(prompts),), step)
            mean = self.mean(latents[-1], i, embedding)
            latents.append(mean + self.std[i] * torch.randn_like(mean))
            log_probs.append(self.log_prob(latents[-1], mean, i))
        rewards = self.reward(self.model.decode(latents[-1]), prompts).values
        return latents, log_probs, embedding, rewards

    def update(
        self, latents: list[Tensor], log_probs: list[Tensor], embedding: Tensor, advantage: Tensor
    ) -> None:
        """Four PPO updates on shuffled (step, sample) pairs."""
        x, old = torch.stack(latents), torch.stack(log_probs)
        pairs = torch.randperm(old.numel()).view(UPDATES, -1)
        for pair in pairs:
            i, n = pair // old.shape[1], pair % old.shape[1]
            mean = self.mean(x[i, n], i, embedding[n])
            ratio = (self.log_prob(x[i + 1, n], mean, i) - old[i, n]).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = torch.maximum(-advantage[n] * ratio, -advantage[n] * clipped).mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()

    def train(self, images: int, prompts: tuple[str, ...]) -> Iterator[float]:
        """Trains for a number of images; yields each round's mean reward."""
        for _ in range(images // (PROMPTS * SAMPLES)):
            chosen = self.rng.choice(len(prompts), PROMPTS, replace=False)
            batch = [prompts[int(k)] for k in chosen for _ in range(SAMPLES)]
            latents, log_probs, embedding, rewards = self.sample(batch)
            groups = rewards.view(PROMPTS, SAMPLES)
            spread = groups.std(1, correction=0, keepdim=True) + 1e-6
            advantage = ((groups - groups.mean(1, keepdim=True)) / spread).flatten().clamp(-5, 5)
            self.update(latents, log_probs, embedding, advantage)
            yield rewards.mean().item()

    def evaluate(self, prompts: tuple[str, ...], samples: int = 4, seed: int = 1) -> float:
        """Mean reward on the given prompts, from the same noise at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            texts = [p for p in prompts for _ in range(samples)]
            return self.sample(texts)[3].mean().item()


def main() -> None:
    """Trains, printing the reward of every round and of the held-out prompts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1216)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reward", default="house_style")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    options = parser.parse_args()
    loop = BareLoop(options.seed, options.reward, options.learning_rate)
    train, held_out = (
        load_prompts("emoji-objects").texts,
        load_prompts("emoji-objects:held_out").texts,
    )
    print(f"held-out reward before: {loop.evaluate(held_out):.3f}", flush=True)
    start = time.perf_counter()
    for number, reward in enumerate(loop.train(options.images, train), 1):
        seconds = time.perf_counter() - start
        print(f"round {number:3d}  {seconds:6.1f} s  reward {reward:.3f}", flush=True)
    print(f"held-out reward after: {loop.evaluate(held_out):.3f}")


if __name__ == "__main__":
    main()
