"""Pictures of a few held-out prompts while a run trains, always from the same noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from agents.evaluation import Evaluation, evaluate
from agents.evaluation.evaluation import spread
from agents.evaluation.image_metrics import Images
from agents.files import atomic
from agents.policy import UNetPolicy
from agents.runs.builders import EVALUATION_SEED, Prompts, base_env, make_env, own_part
from agents.runs.settings import TrainSettings
from diffusion_gym.images import Frame, image_grid

COLUMNS = 4
"""Pictures side by side."""

LONGEST_SIDE = 256
"""Of a picture, in pixels: there are many of them, and the checkpoints can draw larger ones."""

ANY_REWARD = "jpeg_compressibility"
"""A reward that any prompt has and that costs next to nothing: nobody looks at it."""

PROMPTS = "Description"
"""Where a PNG names its prompts, a line each, in the order of its pictures."""

SHOWN, SHOWN_COLUMNS = 20, 10
"""Most pictures of an evaluation, one a prompt, and how many side by side."""


@dataclass(frozen=True)
class Pictures:
    """What a policy draws for some prompts.

    Attributes:
        images: ``[N, H, W, 3]``, one a prompt.
        prompts: The N prompts.
    """

    images: Images
    prompts: list[str]

    def sheet(self) -> Frame:
        """All of them in rows, ``[H', W', 3]``."""
        return image_grid(self.images, COLUMNS)


class HeldOutPictures:
    """Draws the same prompts from the same noise whenever it is asked.

    The prompts are some of those that the run is evaluated on, and the noise is the evaluation's:
    what an evaluation has drawn need not be drawn again.

    Args:
        settings: The run's.
        prompts: What the run is evaluated on.
    """

    def __init__(self, settings: TrainSettings, prompts: Prompts) -> None:
        count = settings.evaluation.picture_prompts
        most = min(count, own_part(settings.run.num_envs))
        self._env = make_env(settings, prompts=prompts, num_envs=most, reward=ANY_REWARD)
        texts = base_env(self._env).prompts
        evaluated = spread(len(texts), settings.evaluation.eval_prompts)
        self._places = spread(len(evaluated), count)
        self._ids: npt.NDArray[np.int64] = evaluated[self._places]
        self._prompts = [texts[i] for i in self._ids]

    def of(self, evaluation: Evaluation) -> Pictures:
        """Those that an evaluation has drawn."""
        return Pictures(_small(evaluation.images[self._places, 0]), self._prompts)

    def draw(self, policy: UNetPolicy) -> Pictures:
        """Those that a policy draws now; no random number of the training is used."""
        drawn = evaluate(policy, self._env, samples=1, prompts=self._ids, seed=EVALUATION_SEED)
        return Pictures(_small(drawn.images[:, 0]), self._prompts)


def save_pictures(pictures: Pictures, path: Path) -> None:
    """Writes them as one PNG, which names its prompts."""
    about = PngInfo()
    text = "\n".join(" ".join(prompt.split()) for prompt in pictures.prompts)
    about.add_itxt(PROMPTS, text.encode("utf-8", "replace").decode())
    path.parent.mkdir(exist_ok=True)
    with atomic(path) as partial:
        Image.fromarray(pictures.sheet()).save(partial, pnginfo=about)


def evaluation_sheet(evaluation: Evaluation) -> Frame:
    """The first picture of an evaluation's first prompts, ``[H', W', 3]``."""
    return image_grid(evaluation.images[:SHOWN, 0], SHOWN_COLUMNS)


def _small(images: Images) -> Images:
    """The same, with no side longer than `LONGEST_SIDE`."""
    height, width = images.shape[1:3]
    shrunk = LONGEST_SIDE / max(height, width)
    if shrunk >= 1:
        return images
    size = (max(1, round(width * shrunk)), max(1, round(height * shrunk)))
    smaller = [Image.fromarray(one).resize(size, Image.Resampling.LANCZOS) for one in images]
    return np.stack([np.asarray(one) for one in smaller])
