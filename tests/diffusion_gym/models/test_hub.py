"""The model hub, spoken to in earnest: a server on this machine answers as the hub does."""

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diffusion_gym.models import load_model

COMMIT = "0123456789" * 4
SCRIPT = """
import json, sys
from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models import load_model, model_defaults
answers = []
for name, options in json.loads(sys.argv[1]):
    try:
        if options.pop("defaults", False):
            answers.append(model_defaults(name, options).num_inference_steps)
            continue
        model = load_model(name, **options)
        answers.append([str(model.folder), model.weights_hash])
    except ModelLoadError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


class Hub(BaseHTTPRequestHandler):
    """Has somebody/small, shows somebody/gated without its files, and knows nobody else."""

    def __init__(self, folder: Path, requested: list[str], *arguments) -> None:
        self.folder = folder
        self.requested = requested
        super().__init__(*arguments)

    def log_message(self, *arguments) -> None:
        """Keeps the tests' output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        repository = next((r for r in ("somebody/small", "somebody/gated") if r in path), None)
        if repository is None:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files()
            ]
            self.answer(200, content=json.dumps(entries).encode())
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.files()]
            info = {"id": repository, "sha": COMMIT, "siblings": siblings}
            self.answer(200, content=json.dumps(info).encode())
        elif repository == "somebody/gated":
            self.answer(403, {"X-Error-Code": "GatedRepo"})
        else:
            self.send_file(path.split(f"{repository}/resolve/")[1].partition("/")[2])

    def files(self) -> list[str]:
        return [
            file.relative_to(self.folder).as_posix()
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        ]

    def send_file(self, name: str) -> None:
        self.requested.append(name)
        file = self.folder / name
        if not file.is_file():
            self.answer(404, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self.answer(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, content)

    def answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b""):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(sdxl_folder) -> Iterator[tuple[str, list[str]]]:
    """Address of the hub, and the files that it was asked for."""
    requested: list[str] = []
    handler = functools.partial(Hub, sdxl_folder, requested)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requested
    server.shutdown()
    thread.join()
    server.server_close()


def load_elsewhere(address: str, cache: Path, *requests):
    """Loads models in a process that takes the address for the hub's."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(requests)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_models_on_the_hub(hub, sdxl_folder, tmp_path):
    address, requested = hub
    loaded, again, gated, missing, revision = load_elsewhere(
        address,
        tmp_path,
        ("somebody/small", {}),
        ("somebody/small", {"revision": COMMIT}),
        ("somebody/gated", {}),
        ("nobody/nothing", {}),
        ("somebody/small", {"variant": "fp16"}),
    )
    folder, weights_hash = loaded
    assert str(tmp_path) in folder
    assert again == loaded
    assert weights_hash == load_model(sdxl_folder).weights_hash
    assert "unet/diffusion_pytorch_model.safetensors" in requested
    assert "it is gated: accept its terms at https://huggingface.co/somebody/gated" in gated
    assert "then log in with 'hf auth login'" in gated
    assert "the hub shows no 'nobody/nothing': it does not exist, or is private" in missing
    assert "fp16" in revision
    for message in (gated, missing, revision):
        assert "\n" not in message


@pytest.mark.slow
def test_a_models_defaults_need_one_small_file(hub, tmp_path):
    address, requested = hub
    steps, missing = load_elsewhere(
        address,
        tmp_path,
        ("somebody/small", {"defaults": True, "variant": "fp16"}),
        ("nobody/nothing", {"defaults": True}),
    )
    assert steps == 50
    assert set(requested) == {"model_index.json"}
    assert "the hub shows no 'nobody/nothing': it does not exist, or is private" in missing


@pytest.mark.slow
def test_no_connection(tmp_path):
    (message,) = load_elsewhere("http://127.0.0.1:9", tmp_path, ("somebody/small", {}))
    assert message.startswith("model 'somebody/small' is neither an embedded model (emoji-64)")
    assert "there is no connection to the hub" in message
    assert "\n" not in message
