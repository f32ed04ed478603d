"""Stage 4: the denoiser, from noise and a caption's states to latents."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel

from benchmarks.emoji64.captions import CaptionIds
from benchmarks.emoji64.composer import Composer
from benchmarks.emoji64.networks import (
    CHANNELS,
    frozen,
    new_denoiser,
    new_scheduler,
    text_states,
)
from benchmarks.emoji64.pictures import to_network_range
from benchmarks.emoji64.sampling import misdescribe, sample_scenes
from benchmarks.emoji64.training import Machine, StageSettings, TrainingReport, train
from diffusion_gym.errors import ModelLoadError
from diffusion_gym.schedules.diffusers_config import Prediction

LATENT_LIMIT = 3.5
MIN_SNR_GAMMA = 5.0
WEIGHT_SCALE = 1 / 0.6
EMPTY_CAPTION_SHARE = 0.1
SCENE_BATCH = 2048
CPU_ENCODE_BATCH = 32
"""Pictures that the autoencoder takes at once on a CPU; 256 take twice as long per picture."""


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings(StageSettings):
    """Settings of the full scale on a GPU.

    Attributes:
        channels: Width of the denoiser's two levels.
        prediction: What the denoiser learns to predict.
        scenes: Number of cached latents.
        true_captions: Train on captions that are always true of their pictures.
        warm_start: Folder of a denoiser whose weights to begin with, as far as they fit.
        average_decay: Decay of the averaged weights, at every `average_interval`-th step.
        average_interval: Steps between two updates of the average.
    """

    seconds: float = 480.0
    batch_size: int = 1024
    peak_rate: float = 1.1e-3
    weight_decay: float = 0.01
    channels: Sequence[int] = CHANNELS
    prediction: Prediction = "v_prediction"
    scenes: int = 786_432
    true_captions: bool = False
    warm_start: Path | None = None
    average_decay: float = 0.995
    average_interval: int = 10


@dataclass(frozen=True)
class Latents:
    """N encoded scenes.

    Attributes:
        latents: Half precision, ``[N, 16, 8, 8]``.
        states: The captions' states in bfloat16, ``[N + 1, 24, 128]``; the last row holds the
            empty caption's.
    """

    latents: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def encode_scenes(
    composer: Composer,
    autoencoder: AutoencoderTiny,
    clip: CLIPModel,
    settings: DenoiserSettings,
    machine: Machine,
) -> Latents:
    """Draws and encodes fresh scenes of the grid; the pixels are not kept."""
    caption_ids = CaptionIds(machine.device)
    encode_batch = SCENE_BATCH if machine.is_gpu else CPU_ENCODE_BATCH
    latents, states = [], []
    for start in range(0, settings.scenes, SCENE_BATCH):
        scenes = sample_scenes(min(SCENE_BATCH, settings.scenes - start), device=machine.device)
        images = to_network_range(composer.render(scenes))
        described = scenes if settings.true_captions else misdescribe(scenes)
        with machine.half_precision():
            latents += [
                # The decoder saturates (3 tanh(z / 3)), and the encoder makes use of that with
                # a few entries of up to 16, which a denoiser would have to learn.
                autoencoder.encode(chunk).latents.clamp(-LATENT_LIMIT, LATENT_LIMIT).half()
                for chunk in images.split(encode_batch)
            ]
            states.append(text_states(clip, caption_ids(described)).bfloat16())
    with machine.half_precision():
        states.append(text_states(clip, caption_ids.empty).bfloat16())
    return Latents(torch.cat(latents), torch.cat(states))


def min_snr_weights(
    alpha_bar: Tensor, prediction: Prediction = "v_prediction", gamma: float = MIN_SNR_GAMMA
) -> Tensor:
    """Weights of the loss per timestep, ``[N]``: Min-SNR weighting (arXiv 2303.09556).

    The squared error of the predicted clean latent weighs ``min(SNR, gamma)``, with
    ``SNR = alpha_bar / (1 - alpha_bar)``: v's is ``SNR + 1`` times that error, epsilon's ``SNR``
    times. Scaled to a maximum of 1.4 for v: where gradients are clipped, the scale of a loss
    matters.
    """
    signal_to_noise = alpha_bar / (1 - alpha_bar)
    per_clean_error = {
        "v_prediction": signal_to_noise + 1,
        "epsilon": signal_to_noise,
        "sample": torch.ones_like(signal_to_noise),
    }
    return signal_to_noise.clamp(max=gamma) / per_clean_error[prediction] * WEIGHT_SCALE


def prediction_loss(
    predicted: Tensor,
    clean: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    prediction: Prediction = "v_prediction",
) -> Tensor:
    """Squared error per sample of what a denoiser predicts, ``[B]``.

    v = sqrt(a) noise - sqrt(1 - a) clean (arXiv 2202.00512), the noise, or the clean latent.
    """
    if prediction == "epsilon":
        target = noise
    elif prediction == "sample":
        target = clean
    else:
        target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    return (predicted.float() - target).square().mean((1, 2, 3))


class WeightAverage:
    """Moving average of a network's weights, which is what is kept in the end."""

    def __init__(self, network: nn.Module, decay: float, interval: int) -> None:
        """Starts from the network's weights."""
        self.network = frozen(copy.deepcopy(network))
        self._decay = decay
        self._interval = interval
        self._averages: list[Tensor] = list(self.network.parameters())
        self._sources: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average at every `interval`-th step; faster while it is young."""
        if step % self._interval:
            return
        updates = step // self._interval
        decay = min(self._decay, updates / (10 + updates))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)


def start_from(denoiser: UNet2DConditionModel, folder: Path) -> None:
    """Copies every weight whose name and shape fit from another denoiser's folder."""
    file = folder / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        raise ModelLoadError(f"a warm start needs {file}, which does not exist")
    own = denoiser.state_dict()
    fitting = {
        name: value.float()
        for name, value in load_file(file).items()
        if name in own and own[name].shape == value.shape
    }
    denoiser.load_state_dict({**own, **fitting})


def _attention_kernel(machine: Machine) -> AbstractContextManager[object]:
    """The kernel that is fastest for sequences of 16 to 64; cuDNN's takes twice as long there."""
    if not machine.is_gpu:
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def train_denoiser(
    composer: Composer,
    autoencoder: AutoencoderTiny,
    clip: CLIPModel,
    settings: DenoiserSettings,
    machine: Machine,
) -> tuple[UNet2DConditionModel, TrainingReport]:
    """Trains a denoiser on freshly encoded scenes; the averaged weights are returned."""
    # What the networks before it make of scenes does not change, so it is computed once.
    data = encode_scenes(composer, autoencoder, clip, settings, machine)
    number, batch = len(data), settings.batch_size
    prediction = settings.prediction
    alpha_bars = new_scheduler(prediction).alphas_cumprod.to(machine.device)
    weights = min_snr_weights(alpha_bars, prediction)
    denoiser = new_denoiser(settings.channels)
    if settings.warm_start is not None:
        start_from(denoiser, settings.warm_start)
    denoiser = machine.place(denoiser)
    average = WeightAverage(denoiser, settings.average_decay, settings.average_interval)
    forward = machine.compiled(denoiser)

    def loss_function() -> dict[str, Tensor]:
        rows = torch.randint(number, (batch,), device=machine.device)
        is_empty = torch.rand(batch, device=machine.device) < EMPTY_CAPTION_SHARE
        clean = data.latents[rows].float()
        states = data.states[torch.where(is_empty, number, rows)].float()
        timesteps = torch.randint(len(alpha_bars), (batch,), device=machine.device)
        noise = torch.randn_like(clean)
        alpha_bar = alpha_bars[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with machine.training_precision():
            predicted = forward(noisy, timesteps, states, return_dict=False)[0]
        losses = prediction_loss(predicted, clean, noise, alpha_bar, prediction)
        return {"loss": (weights[timesteps] * losses).mean()}

    with _attention_kernel(machine):
        report = train("denoiser", denoiser, loss_function, settings, machine, average.update)
    return average.network, report
