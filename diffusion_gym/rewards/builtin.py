"""The rewards that come with the package, and their options.

Networks are loaded when a reward is made, and shared between rewards while somebody uses them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from diffusion_gym.checks import Count, CountOrNone, Positive
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.errors import InvalidInputError, ModelLoadError, unknown_name
from diffusion_gym.rewards.aesthetic import Aesthetic
from diffusion_gym.rewards.base import RewardFunction
from diffusion_gym.rewards.clip_score import ClipScore
from diffusion_gym.rewards.house_style import HouseStyle
from diffusion_gym.rewards.image_reward import ImageReward
from diffusion_gym.rewards.jpeg import JpegSize
from diffusion_gym.rewards.networks.clip import load_clip
from diffusion_gym.rewards.networks.image_reward import load_image_reward
from diffusion_gym.rewards.networks.linear_head import linear_head
from diffusion_gym.rewards.networks.open_clip import load_open_clip
from diffusion_gym.rewards.networks.preprocessing import crop, pad
from diffusion_gym.rewards.networks.weights import (
    find_file,
    fingerprint,
    load_weights,
    model_version,
)
from diffusion_gym.rewards.scene_alignment import SceneAlignment

HPSV2_FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
"""The releases of HPSv2, as their files are called."""


def _embedded(part: str) -> Path:
    # Imported here so that registering a reward does not wait for diffusers.
    from diffusion_gym.emoji64 import emoji64_folder

    return emoji64_folder() / part


def load_verifier(device: str) -> SceneVerifier:
    """Loads the embedded model's verifier; it is shared while somebody holds it."""
    # Imported here so that registering a reward does not wait for diffusers.
    from diffusion_gym.models.shared import shared

    folder = _embedded("verifier")
    return shared(
        ("verifier", folder, device), lambda: SceneVerifier.from_pretrained(folder).to(device)
    )


def make_clip_score(
    device: str,
    *,
    architecture: str | None = None,
    pretrained: str | None = None,
    dtype: str = "float32",
    batch_size: Count = 64,
) -> ClipScore:
    """Makes the cosine in a CLIP model, in [-1, 1].

    Args:
        device: Where the network runs.
        architecture: A model of open_clip such as ``"ViT-H-14"``; None: the embedded model's CLIP.
        pretrained: A checkpoint of that architecture, or one of open_clip's tags.
        dtype: Precision of the network.
        batch_size: How many images the network gets at once.
    """
    if architecture is not None:
        model = load_open_clip(architecture, pretrained, device, dtype)
        version = model_version(model.fingerprint, dtype)
        return ClipScore(model, version=version, batch_size=batch_size)
    if pretrained is not None:
        raise InvalidInputError(
            f"clip_score needs `architecture`, the name of a model of open_clip, to load "
            f"pretrained={pretrained!r}"
        )
    version = "1" if dtype == "float32" else f"1-{dtype}"
    embedded = load_clip(_embedded("clip").resolve(), device, dtype)
    return ClipScore(embedded, version=version, batch_size=batch_size)


def make_aesthetic(
    device: str,
    *,
    clip: str = "openai/clip-vit-large-patch14",
    head: str = "trl-lib/ddpo-aesthetic-predictor",
    dtype: str = "float32",
    batch_size: Count = 64,
) -> Aesthetic:
    """Makes LAION's aesthetic score.

    Args:
        device: Where the network runs.
        clip: OpenAI's ViT-L/14 as transformers saves it: a folder, or a repository on the hub.
        head: ``sac+logos+ava1-l14-linearMSE.pth``, or a folder or repository that holds it as
            ``aesthetic-model.pth``.
        dtype: Precision of CLIP; the head is float32.
        batch_size: How many images the network gets at once.
    """
    file = find_file("aesthetic", "head", head, "aesthetic-model.pth")
    layers = linear_head("aesthetic", file, load_weights("aesthetic", file), "layers.")
    model = load_clip(clip, device, dtype, fit=crop, reward="aesthetic", option="clip")
    identity = f"{model.fingerprint}-{fingerprint(layers.state_dict())}"
    return Aesthetic(model, layers, model_version(identity, dtype), batch_size)


def make_pickscore(
    device: str,
    *,
    pretrained: str = "yuvalkirstain/PickScore_v1",
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    dtype: str = "float32",
    batch_size: Count = 64,
) -> ClipScore:
    """Makes PickScore (arXiv 2305.01569): the cosine times the model's scale, about 20.

    That is its authors' number; some, such as Flow-GRPO, divide it by 26.

    Args:
        device: Where the network runs.
        pretrained: The model as transformers saves it: a folder, or a repository on the hub.
        processor: Likewise, where tokenizer and pixel statistics come from.
        dtype: Precision of the network.
        batch_size: How many images the network gets at once.
    """
    model = load_clip(pretrained, device, dtype, processor=processor, fit=crop, reward="pickscore")
    return ClipScore(
        model,
        name="pickscore",
        version=model_version(model.fingerprint, dtype),
        scale=model.logit_scale,
        batch_size=batch_size,
    )


def make_imagereward(
    device: str,
    *,
    pretrained: str = "THUDM/ImageReward",
    tokenizer: str = "google-bert/bert-base-uncased",
    dtype: str = "float32",
    batch_size: Count = 64,
) -> ImageReward:
    """Makes ImageReward.

    Args:
        device: Where the network runs.
        pretrained: ``ImageReward.pt``, or a folder or repository that holds it.
        tokenizer: BERT's tokenizer: a folder that holds its ``vocab.txt``, or a repository.
        dtype: Precision of the network; its last layers are float32.
        batch_size: How many images the network gets at once.
    """
    file = find_file("imagereward", "pretrained", pretrained, "ImageReward.pt")
    vocabulary = find_file("imagereward", "tokenizer", tokenizer, "vocab.txt", whole_folder=True)
    # Imported here so that the other rewards do not wait for transformers.
    from transformers import BertTokenizer

    network = load_image_reward(file, device, dtype)
    words = BertTokenizer.from_pretrained(vocabulary.parent)
    return ImageReward(network, words, model_version(network.fingerprint, dtype), batch_size)


def make_hpsv2(
    device: str,
    *,
    pretrained: str = "xswu/HPSv2",
    release: str = "v2.1",
    architecture: str = "ViT-H-14",
    dtype: str = "float32",
    batch_size: Count = 64,
) -> ClipScore:
    """Makes the Human Preference Score v2 (arXiv 2306.09341): a cosine, about 0.3.

    That is what its authors' ``score`` returns; their benchmark multiplies it by 100.

    Args:
        device: Where the network runs.
        pretrained: A checkpoint, or a folder or repository that holds the release's.
        release: ``"v2.0"`` or ``"v2.1"``; without meaning where a checkpoint is given.
        architecture: The model of open_clip that the checkpoint is of.
        dtype: Precision of the network.
        batch_size: How many images the network gets at once.
    """
    if release not in HPSV2_FILES:
        raise unknown_name("release of HPSv2", release, HPSV2_FILES)
    file = find_file("hpsv2", "pretrained", pretrained, HPSV2_FILES[release])
    model = load_open_clip(architecture, str(file), device, dtype, fit=pad, reward="hpsv2")
    version = model_version(model.fingerprint, dtype)
    return ClipScore(model, name="hpsv2", version=version, batch_size=batch_size)


def make_remote(
    device: str,
    *,
    url: str | Sequence[str],
    timeout: Positive = 120.0,
    retries: CountOrNone = 8,
    backoff: Positive = 0.5,
    batch_size: Count = 64,
    encoding: Literal["raw", "png"] = "raw",
) -> RewardFunction:
    """Makes a reward that ``python -m diffusion_gym.rewards.serve`` computes on other machines.

    Args:
        device: Without meaning: the servers have their own.
        url: A server, such as ``"http://10.0.0.5:8765"``, or several that share the work.
        timeout: Seconds for one request.
        retries: How often in a row a server may fail, less one, before others take its part.
        backoff: Seconds before the first further attempt; each pause is twice the one before.
        batch_size: Most images in a request.
        encoding: How images are sent: as float32 numbers, or as PNG with 8 bits a colour.
    """
    del device
    try:
        # Imported here since only this reward needs it.
        from diffusion_gym.rewards.remote.reward import RemoteReward
    except ImportError as error:
        raise ModelLoadError('remote needs httpx2: pip install "diffusion-gym[remote]"') from error
    return RemoteReward(
        [url] if isinstance(url, str) else url,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
        batch_size=batch_size,
        encoding=encoding,
    )


BUILT_IN: Mapping[str, Callable[..., RewardFunction]] = {
    "aesthetic": make_aesthetic,
    "clip_score": make_clip_score,
    "house_style": lambda device: HouseStyle(load_verifier(device)),
    "hpsv2": make_hpsv2,
    "imagereward": make_imagereward,
    "jpeg_compressibility": lambda device: JpegSize(-1),
    "jpeg_incompressibility": lambda device: JpegSize(+1),
    "pickscore": make_pickscore,
    "remote": make_remote,
    "scene_alignment": lambda device: SceneAlignment(load_verifier(device)),
}
"""What makes each reward, for a device such as ``"cpu"`` or ``"cuda:0"`` and its options."""
