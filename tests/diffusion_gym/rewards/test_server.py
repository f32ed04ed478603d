"""What a server of rewards refuses, and that it goes on afterwards."""

import base64
import io
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import torch
from PIL import Image
from reward_servers import EXPECTED, IMAGES, PROMPTS, Told, remote, served
from safetensors.torch import save

from diffusion_gym.rewards.remote.protocol import JSON, SAFETENSORS, Limits
from diffusion_gym.rewards.remote.request import ScoreRequest, write_request

LIMITS = Limits(body_bytes=50_000, images=8, side=64, requests=4)


@pytest.fixture(scope="module")
def told() -> Iterator[str]:
    with served(Told(), LIMITS) as url:
        yield url


@pytest.fixture(autouse=True)
def goes_on(told: str) -> Iterator[None]:
    """After whatever it was sent, the server scores as before."""
    yield
    assert torch.equal(remote(told, retries=8)(IMAGES, PROMPTS).values, EXPECTED.values)


def png(width: int = 8, height: int = 8, mode: str = "RGB", kind: str = "PNG") -> str:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def noise() -> str:
    """A PNG that does not get smaller."""
    levels = torch.randint(256, (16, 16, 3), dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels.numpy()).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def bomb(side: int) -> str:
    """A PNG of few bytes whose header promises a picture of that side."""
    data = bytearray(base64.b64decode(png()))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return base64.b64encode(bytes(data)).decode()


def message(**changes: Any) -> bytes:
    usual = {"protocol": 1, "key": "k", "prompts": ["a", "b"], "images": [png(), png()]}
    return json.dumps({k: v for k, v in (usual | changes).items() if v is not None}).encode()


def tensors(images: Any = IMAGES, **changes: Any) -> bytes:
    text = json.dumps({"protocol": 1, "key": "k", "prompts": PROMPTS} | changes).encode()
    return save({"images": images, "message": torch.frombuffer(bytearray(text), dtype=torch.uint8)})


TWO = IMAGES[:2]
BAD: dict[str, tuple[bytes, str, int, str]] = {
    "nothing": (b"", JSON, 400, "expected JSON"),
    "no JSON": (b"{", JSON, 400, "expected JSON"),
    "deep JSON": (b"[" * 40_000, JSON, 400, "nested too deeply"),
    "NaN": (b'{"protocol": NaN}', JSON, 400, "NaN is no JSON"),
    "another protocol": (message(protocol=2), JSON, 400, "version 1 of the protocol, got 2"),
    "no key": (message(key=None), JSON, 400, "a text as the key"),
    "a key in numbers": (message(key=1), JSON, 400, "a text as the key"),
    "no prompts": (message(prompts=None), JSON, 400, "prompts as a list of texts"),
    "a prompt in numbers": (message(prompts=["a", 1]), JSON, 400, "prompts as a list of texts"),
    "a prompt too few": (message(prompts=["a"]), JSON, 400, "got 2 images and 1 prompts"),
    "no images": (message(images=None), JSON, 400, "images as a list of PNG files"),
    "none of images": (message(images=[], prompts=[]), JSON, 400, "images as a list of PNG files"),
    "an image in numbers": (message(images=[1, 2]), JSON, 400, "PNG file in base64 as image 0"),
    "no base64": (message(images=[png(), "%%"]), JSON, 400, "as image 1, got: no base64"),
    "no picture": (message(images=["AAAA", png()]), JSON, 400, "PNG file in base64 as image 0"),
    "a JPEG": (message(images=[png(kind="JPEG"), png()]), JSON, 400, "cannot identify image"),
    "half a PNG": (message(images=[noise()[:400], png()]), JSON, 400, "as image 0"),
    "transparency": (message(images=[png(mode="RGBA"), png()]), JSON, 400, "got mode RGBA"),
    "a palette": (message(images=[png(mode="P"), png()]), JSON, 400, "got mode P"),
    "two sizes": (message(images=[png(), png(width=9)]), JSON, 400, "images of one size"),
    "a bomb": (message(images=[bomb(5000), png()]), JSON, 413, "2 of 5000 x 5000"),
    "a large bomb": (message(images=[bomb(60_000), png()]), JSON, 400, "decompression bomb"),
    "a long side": (message(images=[png(65, 1)] * 2), JSON, 413, "64 pixels a side, got 2 of 1"),
    "many images": (message(images=[png()] * 9, prompts=["a"] * 9), JSON, 413, "at most 8 images"),
    "large when unpacked": (
        message(images=[png(64, 64)] * 8, prompts=["a"] * 8),
        JSON,
        413,
        "at most 50000 bytes as float32",
    ),
    "no tensors": (b"PK\x03\x04", SAFETENSORS, 400, "expected safetensors"),
    "a pickle": (b"\x80\x04\x95" + bytes(20), SAFETENSORS, 400, "expected safetensors"),
    "a header beyond the end": (b"\xff" * 8 + b"{}", SAFETENSORS, 400, "expected safetensors"),
    "half of the tensors": (tensors()[:-100], SAFETENSORS, 400, "expected safetensors"),
    "no images there": (save({"message": torch.zeros(2)}), SAFETENSORS, 400, "got none"),
    "no message": (save({"images": TWO}), SAFETENSORS, 400, "uint8 tensor message"),
    "half precision": (tensors(TWO.half()), SAFETENSORS, 400, "got torch.float16"),
    "bytes": (tensors(TWO.byte()), SAFETENSORS, 400, "got torch.uint8"),
    "one image alone": (tensors(TWO[0]), SAFETENSORS, 400, r"of shape \[3, 8, 8\]"),
    "colours last": (tensors(TWO.permute(0, 2, 3, 1).contiguous()), SAFETENSORS, 400, "8, 8, 3"),
    "no pixels": (tensors(TWO[..., :0].contiguous()), SAFETENSORS, 400, "with pixels"),
    "none": (tensors(TWO[:0], prompts=[]), SAFETENSORS, 400, "with pixels"),
    "fewer than prompts": (tensors(TWO), SAFETENSORS, 400, "got 2 images and 6 prompts"),
    "more bytes": (bytes(50_001), SAFETENSORS, 413, "at most 50000 bytes"),
    "a form": (b"a=b", "application/x-www-form-urlencoded", 415, "expected application/json or"),
    "no type": (message(), "", 415, "expected application/json or"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused(name: str, told: str) -> None:
    body, kind, status, words = BAD[name]
    answer = httpx2.post(f"{told}/v1/scores", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert re.search(words, answer.json()["error"])


def test_a_request_by_hand_is_scored(told: str) -> None:
    """As docs/rewards.md describes it: JSON and PNG."""
    answer = httpx2.post(f"{told}/v1/scores", content=message(), headers={"content-type": JSON})
    assert answer.json() == {
        "protocol": 1,
        "reward": {"name": "told", "version": "1"},
        "key": "k",
        "values": [1.0, 1.0],
        "valid": [True, True],
        "terms": {"mean": [0.0, 0.0]},
        "warnings": [],
    }


def test_the_description(told: str) -> None:
    assert httpx2.get(f"{told}/v1/reward").json() == {
        "protocol": 1,
        "reward": {"name": "told", "version": "1"},
        "limits": {"body_bytes": 50_000, "images": 8, "side": 64, "requests": 4},
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/reward", 404),
        ("GET", "/v1/scores", 405),
        ("POST", "/v1/reward", 405),
        ("PUT", "/v1/scores", 405),
    ],
)
def test_other_paths_and_methods(method: str, path: str, status: int, told: str) -> None:
    assert httpx2.request(method, told + path).status_code == status


def test_what_is_compressed_is_not_unpacked(told: str) -> None:
    headers = {"content-type": JSON, "content-encoding": "gzip"}
    answer = httpx2.post(f"{told}/v1/scores", content=message(), headers=headers)
    assert answer.status_code == 415


def test_a_body_without_a_length_is_cut_off_as_well(told: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield bytes(1000)

    with httpx2.Client(timeout=5) as http:
        try:
            answer = http.post(
                f"{told}/v1/scores", content=endless(), headers={"content-type": SAFETENSORS}
            )
            assert answer.status_code == 413
        except httpx2.NetworkError:  # it closes the connection amid our sending
            pass


def test_prompts_are_checked(told: str) -> None:
    def asked(content: bytes) -> int:
        headers = {"content-type": JSON}
        return httpx2.post(f"{told}/v1/prompts", content=content, headers=headers).status_code

    assert asked(b'{"protocol": 1, "prompts": ["a"]}') == 200
    assert asked(b'{"protocol": 1, "prompts": "a"}') == 400
    assert asked(b'{"protocol": 1}') == 400


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_clients_that_vanish_leave_nothing_behind(share: float, told: str) -> None:
    """More of them than requests are kept: their places become free again."""
    kind, body = write_request(ScoreRequest("k", IMAGES, PROMPTS), "raw")
    head = f"POST /v1/scores HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(2 * LIMITS.requests):
        place = urlsplit(told)
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(data[: int(share * len(data))])
    time.sleep(0.05)


def test_requests_are_scored_one_after_the_other_in_one_thread() -> None:
    threads, at_once, most = set(), 0, 0

    class Watched(Told):
        def __call__(self, images, prompts):
            nonlocal at_once, most
            threads.add(threading.get_ident())
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.02)
            at_once -= 1
            return super().__call__(images, prompts)

    with served(Watched()) as url:
        reward = remote(url)
        clients = [threading.Thread(target=lambda: reward(IMAGES, PROMPTS)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert most == 1
    assert len(threads) == 1


def test_nobody_waits_for_it_so_it_is_not_scored() -> None:
    """A client that gave up while others were being scored costs nothing more."""
    scored: list[str] = []
    entered, goes_on = threading.Event(), threading.Event()

    class Slow(Told):
        def __call__(self, images, prompts):
            scored.append(prompts[0])
            entered.set()
            goes_on.wait(10)
            return super().__call__(images, prompts)

    with served(Slow()) as url:
        first = threading.Thread(target=lambda: remote(url)(IMAGES[:1], ["first"]))
        first.start()
        entered.wait(10)
        kind, body = write_request(ScoreRequest("k", IMAGES[:1], ["gone"]), "raw")
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{url}/v1/scores", content=body, headers={"content-type": kind}, timeout=0.3
            )
        time.sleep(0.2)
        goes_on.set()
        first.join()
        remote(url)(IMAGES[:1], ["last"])
    assert scored == ["first", "last"]


def test_an_error_of_the_server_itself_is_told() -> None:
    class Broken(Told):
        def check_prompts(self, prompts):
            raise OSError("the disk is full")

    with served(Broken()) as url:
        answer = httpx2.post(
            f"{url}/v1/prompts",
            content=b'{"protocol": 1, "prompts": []}',
            headers={"content-type": JSON},
        )
    assert answer.status_code == 500
    assert answer.json() == {"protocol": 1, "error": "OSError: the disk is full"}
