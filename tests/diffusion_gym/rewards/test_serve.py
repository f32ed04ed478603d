"""The command that serves a reward."""

import signal
import subprocess
from pathlib import Path

import pytest
import torch
from reward_servers import IMAGES, PROMPTS, remote, started

from diffusion_gym.rewards import make_reward, serve
from diffusion_gym.rewards.serve import listen

OWN = """
import diffusion_gym

@diffusion_gym.register_reward("colour")
def make_colour(device, *, channel=0):
    return lambda images, prompts: images[:, channel].mean(dim=(1, 2))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reward", "beauty"], "unknown reward 'beauty'; known: aesthetic, "),
        (["--reward", '{"beauty": 1}'], "unknown reward 'beauty'"),
        (["--reward", '{"beauty": '], "expected --reward as JSON, got: "),
        (["--reward", "hpsv2", "--reward-options", "[]"], "--reward-options as a JSON object"),
        (["--reward", "hpsv2", "--reward-options", '{"x": 1}'], "unknown option 'x' of reward"),
        (["--reward", "hpsv2", "--import", "no.such.module"], "cannot import no.such.module: "),
        (["--reward", "hpsv2", "--device", "toaster"], "'toaster' cannot be used here"),
        (["--reward", "jpeg_compressibility", "--max-images", "0"], "images to be a whole number"),
        (["--reward", "jpeg_compressibility", "--port", "70000"], "cannot listen at 127.0.0.1:7"),
        (["--reward", "jpeg_compressibility", "--host", "no host"], "cannot listen at no host:"),
        (["--port", "http"], "invalid int value"),
        ([], "the following arguments are required: --reward"),
    ],
)
def test_mistakes_are_told_in_a_line(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.main(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_place_that_is_taken_is_refused(capsys) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            serve.main(["--reward", "jpeg_compressibility", "--port", port])
    assert f"error: cannot listen at 127.0.0.1:{port}: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_a_sum_with_a_reward_of_ones_own(ending: int, status: int, tmp_path: Path) -> None:
    (tmp_path / "own_rewards.py").write_text(OWN)
    options = (
        *("--import", "own_rewards", "--reward", '{"colour": 2, "jpeg_compressibility": 0.5}'),
        *("--reward-options", '{"colour": {"channel": 1}}', "--port", "0", "--device", "cpu"),
    )
    with started(*options, cwd=tmp_path, stderr=subprocess.PIPE) as (url, process):
        result = remote(url, batch_size=6)(IMAGES, PROMPTS)
        process.send_signal(ending)
        assert process.wait(20) == status
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert torch.allclose(result.terms["colour"], IMAGES[:, 1].mean(dim=(1, 2)))
    size = make_reward("jpeg_compressibility")(IMAGES, PROMPTS).values
    assert torch.equal(result.terms["jpeg_compressibility"], size)
    assert torch.allclose(result.values, 2 * result.terms["colour"] + 0.5 * size)
