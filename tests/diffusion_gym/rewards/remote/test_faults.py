"""What servers of rewards may do wrong: nothing is lost, nothing is mixed up, or there is an end.

Every fault is made by a real server on this machine, and met in three ways: it passes; it stays,
but there is another server; it stays, and there is none.
"""

import gzip
import json
import re
import socket
import struct
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from reward_servers import EXPECTED, IMAGES, PROMPTS, Fault, Spoiler, Told, remote, reply, served

from diffusion_gym.errors import InvalidInputError, RewardServerError
from diffusion_gym.rewards.remote.client import MOST_ANSWER_BYTES

# ------------------------------------------------------------------------ connections and bytes


def closes_at_once(handler, message) -> None:
    handler.connection.close()


def resets(handler, message) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def never_answers(handler, message) -> None:
    handler.spoiler.released.wait(5)


def stops_in_the_headers(handler, message) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")


def stops_in_the_body(handler, message) -> None:
    data = json.dumps(message).encode()
    reply(handler, data[: len(data) // 2], length=len(data))


def hangs_in_the_body(handler, message) -> None:
    data = json.dumps(message).encode()
    reply(handler, data[: len(data) // 2], length=len(data))
    handler.spoiler.released.wait(5)


def drips(data: bytes) -> Fault:
    """So slowly that no single byte is late, but the whole is."""

    def fault(handler, message) -> None:
        for byte in data + bytes(64):
            handler.wfile.write(bytes([byte]))
            if handler.spoiler.released.wait(0.05):
                return

    return fault


def stops_in_a_chunk(handler, message) -> None:
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"ff\r\n" + json.dumps(message).encode()[:20])


def answers_without_end(handler, message) -> None:
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    block = b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"
    for _ in range(2 * MOST_ANSWER_BYTES // 2**20):
        handler.wfile.write(block)


def sends(data: bytes, status: int = 200, **headers: str) -> Fault:
    return lambda handler, message: reply(handler, data, status, **headers)


def sends_raw(data: bytes) -> Fault:
    def fault(handler, message) -> None:
        handler.wfile.write(data)

    return fault


BYTES: dict[str, tuple[Fault, str]] = {
    "closes at once": (closes_at_once, "RemoteProtocolError|ReadError"),
    "resets the connection": (resets, "ReadError|RemoteProtocolError"),
    "never answers": (never_answers, "no answer within 0.4 s"),
    "stops in the headers": (stops_in_the_headers, "RemoteProtocolError"),
    "stops in the body": (stops_in_the_body, "RemoteProtocolError"),
    "hangs in the body": (hangs_in_the_body, "no answer within 0.4 s"),
    "drips headers": (drips(b"HTTP/1.1 200 OK\r\nX: "), "no answer within 0.4 s"),
    "drips a body": (
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"),
        "no answer within 0.4 s",
    ),
    "stops in a chunk": (stops_in_a_chunk, "RemoteProtocolError"),
    "answers without end": (answers_without_end, "at most 16777216 bytes"),
    "is too long": (sends(b" " * (MOST_ANSWER_BYTES + 1)), "at most 16777216 bytes"),
    "speaks no HTTP": (sends_raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "RemoteProtocolError"),
    "has two lengths": (
        sends_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        "RemoteProtocolError",
    ),
    "has endless headers": (
        sends_raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000),
        "RemoteProtocolError",
    ),
    "sends a bomb": (
        sends(gzip.compress(bytes(2**26)), content_encoding="gzip"),
        "not compressed, got 'gzip'",
    ),
    "sends nothing": (sends(b""), "expected JSON, got b''"),
    "sends a page": (sends(b"<html>Welcome</html>"), "expected JSON, got b'<html>"),
    "sends half of JSON": (sends(b'{"protocol": 1, "values": [0.1, 0.'), "expected JSON"),
    "sends Latin-1": (sends('{"reward": "schön"}'.encode("latin-1")), "expected JSON"),
    "sends UTF-16": (sends('{"protocol": 1}'.encode("utf-16")), "expected JSON"),
    "sends a list": (sends(b"[1, 2]"), "expected a JSON object"),
    "sends deep JSON": (sends(b"[" * 100_000), "nested too deeply"),
    "sends long digits": (sends(b'{"protocol": 1' + b"0" * 5000 + b"}"), "expected JSON"),
}


# --------------------------------------------------------------------------------------- statuses

ERROR = json.dumps({"protocol": 1, "error": "so it is"}).encode()
STATUSES: dict[str, tuple[Fault, str]] = {
    **{
        f"status {status}": (sends(ERROR, status), f"status 200, got {status} .*: so it is")
        for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504, 507)
    },
    **{
        f"redirect {status}": (
            sends(b"", status, location="http://127.0.0.1:9/"),
            f"got {status} .*, to 'http://127.0.0.1:9/'; name that server itself",
        )
        for status in (301, 302, 307, 308)
    },
    "status 204": (
        lambda handler, message: handler.send_response(204) or handler.end_headers(),
        "",
    ),
    "status 206": (sends(b"{}", 206), "got 206"),
    "status 422 of another": (sends(b"Unprocessable", 422), "got 422"),
    "status 422 in other JSON": (sends(b'{"detail": []}', 422), "got 422"),
}


# --------------------------------------------------------------------------------------- messages


def changes(change: Callable[[dict], object]) -> Fault:
    """The right answer, but for one thing."""

    def fault(handler, message) -> None:
        change(message)
        reply(handler, json.dumps(message).encode())

    return fault


def has(key: str, value: object) -> Fault:
    return changes(lambda message: message.update({key: value}))


def lacks(key: str) -> Fault:
    return changes(lambda message: message.pop(key))


def first_value(literal: bytes) -> Fault:
    """A number that is written in another way."""

    def fault(handler, message) -> None:
        message["values"][0] = "HERE"
        reply(handler, json.dumps(message).encode().replace(b'"HERE"', literal))

    return fault


MESSAGES: dict[str, tuple[Fault, str]] = {
    "NaN": (first_value(b"NaN"), "NaN is no JSON"),
    "infinity": (first_value(b"-Infinity"), "-Infinity is no JSON"),
    "beyond float64": (first_value(b"1e999"), "values in the range of float32"),
    "beyond float32": (first_value(b"1e300"), "values in the range of float32"),
    "a long integer": (first_value(b"1" + b"0" * 400), "values in the range of float32"),
    "a text as a value": (first_value(b'"0.5"'), "values as numbers or null"),
    "true as a value": (first_value(b"true"), "values as numbers or null"),
    "a list as a value": (first_value(b"[0.5]"), "values as numbers or null"),
    "a value too few": (changes(lambda m: m["values"].pop()), "values as a list of 2 numbers"),
    "a value too many": (changes(lambda m: m["values"].append(0)), "values as a list of 2"),
    "no values": (lacks("values"), "values as a list of 2 numbers, .* got None"),
    "values by name": (has("values", {"a": 1, "b": 2}), "values as a list of 2 numbers"),
    "a single value": (has("values", 0.5), "values as a list of 2 numbers"),
    "null for a valid image": (has("values", [None, 1.0]), "a number wherever valid is true"),
    "no valid": (lacks("valid"), "valid as 2 of true and false"),
    "valid too short": (has("valid", [True]), "valid as 2 of true and false"),
    "valid in numbers": (has("valid", [1, 1]), "valid as 2 of true and false"),
    "no terms": (lacks("terms"), "terms as a JSON object"),
    "terms as a list": (has("terms", []), "terms as a JSON object"),
    "a short term": (has("terms", {"mean": [0.5]}), "'mean' as a list of 2 numbers"),
    "a term of texts": (has("terms", {"mean": ["a", "b"]}), "'mean' as numbers or null"),
    "a term without name": (has("terms", {"": [1, 2]}), "terms must have texts as names"),
    "a term's hidden name": (has("terms", {"_x": [1, 2]}), "terms must have texts as names"),
    "another's key": (has("key", "0" * 32), "the answer to what was asked"),
    "no key": (lacks("key"), "the answer to what was asked"),
    "another protocol": (has("protocol", 2), "version 1 of the protocol, got 2"),
    "true as the protocol": (has("protocol", True), "version 1 of the protocol, got True"),
    "no protocol": (lacks("protocol"), "version 1 of the protocol, got None"),
    "another reward": (
        has("reward", {"name": "other", "version": "1"}),
        "the reward told of version 1, as at the start, got 'other'",
    ),
    "another version": (
        has("reward", {"name": "told", "version": "2"}),
        "the reward told of version 1, as at the start, got 'told' of version '2'",
    ),
    "no reward": (lacks("reward"), "a reward's name and version, got None"),
    "a reward of no name": (has("reward", {"version": "1"}), "a reward's name and version"),
    "a version in numbers": (
        has("reward", {"name": "told", "version": 1}),
        "a reward's name and version",
    ),
    "warnings by name": (has("warnings", {}), "warnings as a list"),
}

FAULTS = {**BYTES, **STATUSES, **MESSAGES}
LASTING = ("another reward", "another version", "sends a bomb")
"""Those that no further attempt on the same server could mend; statuses see below."""

MAY_PASS = {f"status {status}" for status in (408, 429, 500, 502, 503, 504, 507)}


def lasts(fault: str) -> bool:
    return fault in LASTING or (fault in STATUSES and fault not in MAY_PASS)


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    with served(Told()) as url:
        yield url


def patience(fault: str) -> dict[str, float]:
    """Short only where a fault takes its time; then what is merely slow here may be, once more."""
    _, words = FAULTS[fault]
    return {"timeout": 0.4, "retries": 6} if "within" in words else {}


def scores(*urls: str, **options):
    """Scores in three requests, and the warnings that come with them."""
    reward = remote(*urls, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return reward(IMAGES, PROMPTS), [str(one.message) for one in caught]


def assert_expected(result) -> None:
    """All images have their own scores, bit for bit."""
    assert torch.equal(result.values, EXPECTED.values)
    assert torch.equal(result.terms["mean"], EXPECTED.terms["mean"])
    assert result.valid.all()


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 50


@pytest.mark.parametrize("name", [name for name in FAULTS if not lasts(name)])
def test_a_fault_that_passes_is_survived(name: str, good: str) -> None:
    fault, words = FAULTS[name]
    with Spoiler(good, fault, lambda number: number == 0) as spoiler:
        result, told = scores(spoiler.url, **patience(name))
    assert_expected(result)
    assert spoiler.asked == 3 + len(told)
    assert len(told) == 1 or patience(name)
    assert re.search(rf"asked once more: {spoiler.url}: .*({words})", told[0])


@pytest.mark.parametrize("name", FAULTS)
def test_another_server_takes_over(name: str, good: str) -> None:
    fault, words = FAULTS[name]
    with Spoiler(good, fault) as spoiler:
        result, told = scores(spoiler.url, good, **patience(name))
    assert_expected(result)
    assert all(re.search(rf"http.*: .*({words})", text) for text in told)


@pytest.mark.parametrize("name", FAULTS)
def test_where_there_is_no_other_server_there_is_a_clear_end(name: str, good: str) -> None:
    fault, words = FAULTS[name]
    with (
        Spoiler(good, fault) as spoiler,
        pytest.raises(RewardServerError, match=rf"no reward server is left: .*({words})"),
    ):
        scores(spoiler.url, **patience(name) | {"retries": 1})
    assert spoiler.asked == (1 if lasts(name) else 2)


def test_what_the_reward_refuses_is_no_fault(good: str) -> None:
    fault = sends(json.dumps({"protocol": 1, "error": "cannot read 'ccc'"}).encode(), 422)
    with (
        Spoiler(good, fault) as spoiler,
        pytest.raises(InvalidInputError, match=f"cannot read 'ccc' .*{spoiler.url}"),
    ):
        scores(spoiler.url, retries=5)
    assert spoiler.asked == 1


@pytest.mark.parametrize("seed", range(4))
def test_scores_belong_to_their_images_whoever_fails(seed: int, good: str) -> None:
    """Four servers that fail in turn and at random, and as many requests as there are images."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [closes_at_once, stops_in_the_body, sends(b"", 503), has("key", "x")]

    def at_random(number: int) -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    spoilers = [Spoiler(good, kind, at_random) for kind in kinds]
    try:
        result, told = scores(*(one.url for one in spoilers), batch_size=1, retries=12)
    finally:
        for one in spoilers:
            one.__exit__()
    assert_expected(result)
    assert told
    assert sum(one.asked for one in spoilers) == len(IMAGES) + len(told)


def test_images_that_no_server_can_bear_end_it(good: str) -> None:
    """The same request fails everywhere, while others between reset every server's count."""

    def breaks_on_the_last(handler, message) -> None:
        bad = message["values"][-1] > 6  # the prompt of six letters
        reply(handler, b"" if bad else json.dumps(message).encode(), 500 if bad else 200)

    with (
        Spoiler(good, breaks_on_the_last) as one,
        Spoiler(good, breaks_on_the_last) as two,
        pytest.raises(RewardServerError, match=r"server is left|same images failed"),
    ):
        scores(one.url, two.url, batch_size=1)
    assert one.asked + two.asked <= 5 + 4 * 2
