"""Models and configurations from the model hub."""

from collections.abc import Iterator
from pathlib import Path

import diffusers
from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffusion_gym.errors import ModelLoadError, first_line
from diffusion_gym.models.embedded import model_names
from diffusion_gym.models.options import ModelOptions
from diffusion_gym.models.quiet import quiet_libraries
from diffusion_gym.parsing import as_path

UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")
SMALL_FILES = ("*.json", "*/*.json", "*.txt", "*/*.txt", "*/*.model")


def download(name: str, options: ModelOptions) -> Path:
    """The diffusers folder behind a hub id, downloaded where it is not in the cache yet.

    Raises:
        ModelLoadError: It cannot be had.
    """
    unused = UNUSED_PARTS if options.t5 else (*UNUSED_PARTS, "text_encoder_3", "tokenizer_3")
    try:
        with quiet_libraries():
            return Path(
                diffusers.DiffusionPipeline.download(
                    name,
                    use_safetensors=True,
                    variant=options.variant,
                    revision=options.revision,
                    trust_remote_code=False,
                    **dict.fromkeys(unused),  # parts that are given need no download
                )
            )
    except Exception as error:  # hub, network and format errors are of many unrelated classes
        raise _not_there(name, error) from error


def download_index(name: str, options: ModelOptions) -> Path:
    """The folder of a hub id with what says which kind of model it is, and nothing else.

    Raises:
        ModelLoadError: It cannot be had.
    """
    try:
        with quiet_libraries():
            return Path(
                snapshot_download(
                    name, revision=options.revision, allow_patterns=["model_index.json"]
                )
            )
    except Exception as error:  # as above
        raise _not_there(name, error) from error


def vae_folder(name: str) -> Path:
    """The folder of a hub id with a VAE, its own or that of the model there.

    Raises:
        ModelLoadError: It cannot be had.
    """
    own = ("config.json", "diffusion_pytorch_model*.safetensors")
    return _snapshot("vae", name, [*own, "vae/*.json", "vae/*.safetensors"])


def lora_folder(name: str) -> Path:
    """The folder of a hub id with LoRA weights.

    Raises:
        ModelLoadError: It cannot be had.
    """
    return _snapshot("lora_weights", name, ["*.safetensors"], ["*/*"])


def _snapshot(option: str, name: str, patterns: list[str], but: list[str] | None = None) -> Path:
    try:
        with quiet_libraries():
            return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=but))
    except Exception as error:  # as above
        raise ModelLoadError(
            f"the model option {option}={name!r} is neither here nor to be had from the model hub: "
            f"{_reason(error, name)}"
        ) from error


def _not_there(name: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"model {name!r} is neither an embedded model ({', '.join(model_names())}) nor a folder "
        f"or file here, and it could not be had from the model hub: {_reason(error, name)}"
    )


def config_folder(file: Path, config: str | None) -> Path:
    """The folder that says what is in a single-file checkpoint.

    Args:
        file: The checkpoint.
        config: A folder or hub id; None lets diffusers find out what kind of model it is, and
            take the configuration of the first such model from the hub.

    Raises:
        ModelLoadError: It cannot be had.
    """
    if config is not None and (folder := as_path("config", config)).is_dir():
        return folder
    repository = config
    try:
        with quiet_libraries():
            if repository is None:
                weights = load_single_file_checkpoint(str(file))
                repository = str(fetch_diffusers_config(weights)["pretrained_model_name_or_path"])
            return Path(snapshot_download(repository, allow_patterns=list(SMALL_FILES)))
    except Exception as error:  # as above, and those of a damaged file
        wanted = "the model hub" if repository is None else f"{repository!r} on the model hub"
        raise ModelLoadError(
            f"a single-file checkpoint has no configuration: that of {file} was looked for in "
            f"{wanted}, and could not be had: {_reason(error, repository)}. Expected a "
            "connection, or the model option config='path/to/folder', a diffusers folder of the "
            "same kind of model (its small files suffice)"
        ) from error


def _reason(error: Exception, repository: str | None) -> str:
    """Why the hub did not deliver, in one line."""
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"it is gated: accept its terms at https://huggingface.co/{repository}, then log in "
            "with 'hf auth login'"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{repository!r} has no such revision"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"the hub shows no {repository!r}: it does not exist, or is private"
    first = first_line(error)
    offline = (ConnectionError, LocalEntryNotFoundError)
    if any(isinstance(cause, offline) for cause in causes):
        return f"it is not in the cache, and there is no connection to the hub ({first})"
    return first


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
