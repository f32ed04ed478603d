"""One evaluation of a denoiser, with or without classifier-free guidance."""

from torch import Tensor

from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models.denoiser import Denoiser
from diffusion_gym.models.embedding import PromptEmbedding


def guided_prediction(
    denoiser: Denoiser,
    latents: Tensor,
    timesteps: Tensor,
    embedding: PromptEmbedding,
    *,
    null_embedding: PromptEmbedding | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Evaluates the denoiser, guided towards the prompt (Ho & Salimans, arXiv 2207.12598).

    ``out = out_null + guidance * (out_prompt - out_null)``, where the null embedding is that of a
    row's negative prompt, if prompts have some of their own; a guidance of 1 is exactly the
    conditional prediction, so it costs one pass over an undoubled batch.

    Args:
        denoiser: From `DiffusionModel.new_denoiser`.
        latents: Noisy latents, ``[B, C, h, w]``.
        timesteps: Training timestep of every row, ``[B]``.
        embedding: Embedded prompts of B rows.
        null_embedding: Embedding of the empty prompt, of one row; needed unless guidance is 1 or
            the rows have negative prompts.
        guidance: Classifier-free guidance scale.

    Returns:
        What the denoiser predicts (noise, velocity or sample, as the scheduler's configuration
        says), ``[B, C, h, w]``.

    Raises:
        InvalidInputError: Guidance differs from 1 and there is no null embedding.
    """
    if guidance == 1.0:
        output: Tensor = denoiser(latents, timesteps, embedding)
        return output
    away_from = embedding.negative
    if away_from is None:
        if null_embedding is None:
            raise InvalidInputError(f"guidance {guidance} needs the null embedding; got None")
        away_from = null_embedding.expand(len(latents))
    embeddings = PromptEmbedding.cat([away_from, embedding])
    both = denoiser(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), embeddings)
    unconditional, conditional = both.chunk(2)
    guided: Tensor = unconditional + guidance * (conditional - unconditional)
    return guided
