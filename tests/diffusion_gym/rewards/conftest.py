"""Small networks."""

import json
from pathlib import Path

import pytest
from authors import draw, reference
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of open_clip as a folder of its own."""
    folder = tmp_path_factory.mktemp("open_clip")
    recorded = reference("hpsv2")
    statistics = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27],
    }
    config = {"model_cfg": recorded["config"], "preprocess_cfg": statistics}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(draw(recorded["parameters"], 8), folder / "open_clip_model.safetensors")
    return folder
