"""Rewards of real servers: the same numbers as here, whoever dies meanwhile."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from reward_servers import EXPECTED, IMAGES, PROMPTS, Spoiler, Told, remote, served, started

import diffusion_gym
from diffusion_gym.errors import InvalidInputError, RewardServerError
from diffusion_gym.rewards import make_reward, score
from diffusion_gym.rewards.base import RewardResult, check_prompts
from diffusion_gym.rewards.remote.protocol import Limits
from diffusion_gym.rewards.serve import listen


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def free_port() -> int:
    with listen("127.0.0.1", 0) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def told() -> Iterator[str]:
    with served(Told()) as url:
        yield url


def assert_expected(result: RewardResult) -> None:
    assert torch.equal(result.values, EXPECTED.values)
    assert torch.equal(result.terms["mean"], EXPECTED.terms["mean"])
    assert result.valid.all()


# -------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("name", ["house_style", "scene_alignment", "jpeg_compressibility"])
def test_raw_tensors_score_as_they_do_here(name: str) -> None:
    here = make_reward(name)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    prompts = ["a cat", "two dogs", "a red circle", "a bee", "a cow", "a pig", "a fox", "an owl"]
    prompts = [prompt if name == "jpeg_compressibility" else "a cat" for prompt in prompts]
    with served(here) as url:
        there = make_reward({"remote": url})
        assert (there.name, there.version) == (here.name, here.version)
        mine, theirs = score(here, images, prompts), score(there, images, prompts)
    assert torch.equal(mine.values, theirs.values)
    assert torch.equal(mine.valid, theirs.valid)
    assert mine.terms.keys() == theirs.terms.keys()
    for term, column in mine.terms.items():
        assert torch.equal(column.nan_to_num(-9), theirs.terms[term].nan_to_num(-9))


def test_a_sum_asks_different_rewards_on_different_servers(told: str) -> None:
    sizes = make_reward("jpeg_compressibility")
    with served(sizes) as other:
        urls = {"remote/judge": {"url": told}, "remote/size": {"url": other, "retries": 1}}
        weights = {"remote/judge": 2.0, "remote/size": -1.0, "jpeg_incompressibility": 0.5}
        result = make_reward(weights, options=urls)(IMAGES, PROMPTS)
    own = sizes(IMAGES, PROMPTS).values
    torch.testing.assert_close(result.values, 2.0 * EXPECTED.values - 1.5 * own)
    assert torch.equal(result.terms["remote/judge"], EXPECTED.values)
    assert torch.equal(result.terms["remote/judge/mean"], EXPECTED.terms["mean"])
    assert torch.equal(result.terms["remote/size"], own)


def test_one_reward_may_be_named_as_well(told: str) -> None:
    assert_expected(make_reward("remote/judge", options={"url": told})(IMAGES, PROMPTS))


def test_png_is_exact_on_levels_and_rounds_what_lies_between(told: str) -> None:
    reward = remote(told, encoding="png")
    levels = (IMAGES * 255).round() / 255
    assert torch.equal(reward(levels, PROMPTS).terms["mean"], Told()(levels, PROMPTS).terms["mean"])
    between = IMAGES * 0.999
    off = reward(between, PROMPTS).terms["mean"] - Told()(between, PROMPTS).terms["mean"]
    assert 0 < off.abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 6, 7, 100])
@pytest.mark.parametrize("servers", [1, 2, 3])
def test_parts_are_put_together_in_order(batch_size: int, servers: int, told: str) -> None:
    with Spoiler(told, lambda *_: None, lambda _: False) as one:
        urls = [told, one.url, told.replace("127.0.0.1", "localhost")][:servers]
        assert_expected(remote(*urls, batch_size=batch_size)(IMAGES, PROMPTS))


def test_every_server_gets_a_share(told: str) -> None:
    with (
        Spoiler(told, lambda *_: None, lambda _: False) as one,
        Spoiler(told, lambda *_: None, lambda _: False) as two,
    ):
        assert_expected(remote(one.url, two.url, batch_size=100)(IMAGES, PROMPTS))
        assert one.asked + two.asked == 2
        assert_expected(remote(one.url, two.url, batch_size=1)(IMAGES, PROMPTS))
    assert one.asked + two.asked == 8


def test_several_servers_score_at_the_same_time() -> None:
    class Slow(Told):
        def __call__(self, images, prompts):
            time.sleep(1.0)
            return super().__call__(images, prompts)

    with served(Slow()) as one, served(Slow()) as two, served(Slow()) as three:
        reward = remote(one, two, three)
        start = time.perf_counter()
        assert_expected(reward(IMAGES, PROMPTS))
        assert 1.0 <= time.perf_counter() - start < 2.5


def test_a_term_that_a_part_lacks_is_unknown_there() -> None:
    class Half(Told):
        def __call__(self, images, prompts):
            result = super().__call__(images, prompts)
            return RewardResult(
                result.values, result.valid, result.terms if images[0].any() else {}
            )

    with served(Half()) as url:
        result = remote(url)(IMAGES, PROMPTS)
    assert torch.equal(result.values, EXPECTED.values)
    assert result.terms["mean"].isnan().tolist() == [True, True, False, False, False, False]


def test_it_works_where_an_event_loop_runs(told: str) -> None:
    async def cell() -> RewardResult:
        return remote(told)(IMAGES, PROMPTS)

    assert_expected(asyncio.run(cell()))


def test_images_may_lie_in_any_layout(told: str) -> None:
    turned = IMAGES.to(memory_format=torch.channels_last).requires_grad_()
    assert_expected(remote(told)(turned, PROMPTS))
    assert_expected(remote(told)(IMAGES.repeat_interleave(2, 0)[::2], tuple(PROMPTS)))


# ---------------------------------------------------------------------- what a reward gives or does


def test_images_that_cannot_be_scored_are_told_of_and_spoil_no_other() -> None:
    class Picky(Told):
        def __call__(self, images, prompts):
            if "ccc" in prompts:
                raise ZeroDivisionError("no such colour")
            result = super().__call__(images, prompts)
            result.values[[prompt == "a" for prompt in prompts]] = torch.nan
            result.values[[prompt == "bb" for prompt in prompts]] = torch.inf
            return result

    with served(Picky()) as url:
        reward = remote(url, batch_size=6)
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError: no such colour"):
            result = score(reward, IMAGES, PROMPTS)
    assert result.valid.tolist() == [False, False, False, True, True, True]
    assert result.values.tolist() == [0.0, 0.0, 0.0, *EXPECTED.values.tolist()[3:]]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.zeros(3), r"must return values of shape \[6\]"),
        ("good", "must return a tensor"),
        (None, "must return a tensor"),
        (KeyError("b"), "raised KeyError: 'b' .* when it was first asked"),
    ],
)
def test_a_reward_that_cannot_work_ends_it_as_it_does_here(output, words: str) -> None:
    class Broken(Told):
        def __call__(self, images, prompts):
            if isinstance(output, Exception):
                raise output
            return output

    with served(Broken()) as url:
        reward = remote(url, batch_size=6)
        with pytest.raises(InvalidInputError, match=rf"{words}.*{url}"):
            score(reward, IMAGES, PROMPTS)


def test_prompts_are_refused_before_there_are_images() -> None:
    with served(make_reward("house_style")) as url:
        reward = make_reward("remote", options={"url": url})
        check_prompts(reward, ["a cat", "two dogs"])
        with pytest.raises(InvalidInputError, match=r"'house_style' .*unknown object 'gnu'"):
            check_prompts(reward, ["a cat", "a gnu"])
        with pytest.raises(InvalidInputError, match="unknown object 'gnu'"):
            diffusion_gym.DiffusionT2IEnv(reward={"remote": url}, prompts=["a gnu"])


# ------------------------------------------------------------------------- servers that come and go


@pytest.mark.slow
def test_a_server_that_is_killed_amid_a_request(told: str) -> None:
    """SIGKILL while the other process holds the images."""
    with started("--reward", "jpeg_compressibility", "--port", "0") as (url, process):
        images = torch.rand(2, 3, 512, 512)
        reward = make_reward("remote", options={"url": url, "retries": 1, "backoff": 0.01})
        process.send_signal(signal.SIGSTOP)  # takes the request and never looks at it
        threading.Timer(0.3, process.kill).start()
        with (
            pytest.warns(RuntimeWarning, match=f"asked once more: {url}"),
            pytest.raises(RewardServerError, match=f"no reward server is left: {url}"),
        ):
            reward(images, ["a", "b"])


def test_another_takes_over_where_one_is_killed() -> None:
    """The part that the killed one had is scored by the other."""
    entered, dies = threading.Event(), threading.Event()

    class Dying(Told):
        def __call__(self, images, prompts):
            entered.set()
            dies.wait(5)
            return super().__call__(images, prompts)

    with served(Told()) as living, Spoiler(living, lambda *_: None, lambda _: False) as through:
        with served(Dying()) as dying:
            reward = remote(through.url, dying, retries=2, batch_size=3)
            killer = threading.Thread(target=lambda: entered.wait(5) and dies.set())
            killer.start()
            assert_expected(reward(IMAGES, PROMPTS))
            killer.join()
        with pytest.warns(RuntimeWarning, match=f"{dying}: ConnectError"):
            assert_expected(reward(IMAGES, PROMPTS))
    assert through.asked == 3


def test_a_server_that_comes_back_is_asked_again() -> None:
    port = free_port()
    with served(Told(), port=port) as url:
        reward = remote(url, retries=8, backoff=0.05)
        assert_expected(reward(IMAGES, PROMPTS))
    again = threading.Event()

    def comes_back() -> None:
        time.sleep(0.2)
        with served(Told(), port=port):
            again.wait(10)

    thread = threading.Thread(target=comes_back)
    thread.start()
    with pytest.warns(RuntimeWarning, match=f"asked once more: {url}: ConnectError"):
        assert_expected(reward(IMAGES, PROMPTS))
    again.set()
    thread.join()


def test_a_server_that_comes_back_with_another_version_is_refused(told: str) -> None:
    port = free_port()
    with served(Told(), port=port) as url:
        alone, helped = remote(url), remote(url, told)
    with served(Told("2"), port=port):
        words = "reward told of version 1, as at the start, got 'told' of version '2'"
        with pytest.warns(RuntimeWarning), pytest.raises(RewardServerError, match=words):
            alone(IMAGES, PROMPTS)
        with pytest.warns(RuntimeWarning, match=f"left out of this batch: {url}: .*{words}"):
            assert_expected(helped(IMAGES, PROMPTS))


def test_one_of_two_is_dead_from_the_start(told: str) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.warns(RuntimeWarning, match=f"reward server does not answer: {dead}"):
        reward = remote(dead, told)
    assert_expected(reward(IMAGES, PROMPTS))


def test_a_server_that_hangs_is_greeted_before_it_is_trusted_again(told: str) -> None:
    """It costs one timeout, and none in the following batches."""
    with Spoiler(told, lambda handler, _: handler.spoiler.released.wait(5)) as hangs:
        reward = remote(hangs.url, told, timeout=1.5, retries=0)
        with pytest.warns(RuntimeWarning, match=r"no answer within 1\.5 s"):
            assert_expected(reward(IMAGES, PROMPTS))
    # Now it takes connections and says nothing at all.
    with listen("127.0.0.1", int(hangs.url.rpartition(":")[2])):
        start = time.perf_counter()
        for _ in range(3):
            assert_expected(reward(IMAGES, PROMPTS))
        assert time.perf_counter() - start < 1.5


def test_all_are_dead() -> None:
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(
        RewardServerError, match=rf"no reward server answers: .*{dead[0]}.*{dead[1]}"
    ):
        remote(*dead)


def test_servers_of_different_rewards_are_refused(told: str) -> None:
    with (
        served(Told("2")) as other,
        pytest.raises(InvalidInputError, match="servers of the same reward, got told 1, told 2"),
    ):
        remote(told, other)


def test_a_busy_server_is_asked_later() -> None:
    class Slow(Told):
        def __call__(self, images, prompts):
            time.sleep(0.1)
            return super().__call__(images, prompts)

    results = []
    with served(Slow(), Limits(requests=1)) as url:
        reward = remote(url, retries=12, backoff=0.05)
        threads = [
            threading.Thread(target=lambda: results.append(reward(IMAGES, PROMPTS)))
            for _ in range(3)
        ]
        with pytest.warns(RuntimeWarning, match=r"503 .*: 1 requests are waiting"):
            run_all(threads)
    assert len(results) == 3
    for result in results:
        assert_expected(result)


def test_requests_keep_to_the_limits_of_the_servers(told: str) -> None:
    few = Limits(images=2, body_bytes=10_000, side=8)
    with served(Told(), few) as url, Spoiler(url, lambda *_: None, lambda _: False) as counted:
        assert_expected(remote(told, counted.url, batch_size=100)(IMAGES, PROMPTS))
        reward = remote(counted.url, batch_size=100)
        before = counted.asked
        assert_expected(reward(IMAGES, PROMPTS))
        assert counted.asked - before == 3
        with pytest.raises(InvalidInputError, match=r"at most 8 pixels a side .*, got 8 x 16"):
            reward(torch.zeros(1, 3, 8, 16), ["a"])


# --------------------------------------------------------------------------- how it is asked for


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("remote", lambda url: {"remote": {"url": url}}),
        ("remote", lambda url: {"url": url}),
        ("remote", lambda url: {"url": [url], "timeout": 3}),
        ({"remote": None}, lambda url: None),
        ({"remote": None}, lambda url: {"remote": {"timeout": 3}}),
        ({"remote": None}, lambda url: {"timeout": 3, "encoding": "png"}),
    ],
)
def test_ways_to_name_it(spec, options, told: str) -> None:
    spec = {"remote": told} if isinstance(spec, dict) else spec
    reward = make_reward(spec, options=options(told))
    assert (reward.name, reward.version) == ("told", "1")
    assert reward(IMAGES, PROMPTS).valid.all()


def test_in_a_weighted_sum_the_version_says_what_is_served(told: str) -> None:
    reward = make_reward(
        {"remote": 2.0, "jpeg_compressibility": 1.0}, options={"remote": {"url": told}}
    )
    assert reward.version == "remote=told@1 + jpeg_compressibility@1"
    assert torch.equal(reward(IMAGES, PROMPTS).terms["remote"], EXPECTED.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "reward 'remote' needs the options url"),
        ({"url": "10.0.0.5:8000"}, "expected the url of a reward server"),
        ({"url": "ftp://10.0.0.5"}, "such as 'http://10.0.0.5:8765', got 'ftp://10.0.0.5'"),
        ({"url": "http://"}, "expected the url of a reward server"),
        ({"url": "http://[::1"}, "expected the url of a reward server"),
        ({"url": "http://a/?x=1"}, "expected the url of a reward server"),
        ({"url": "http://me:secret@a"}, "without name and password"),
        ({"url": []}, "at least one reward server, got none"),
        ({"url": [3]}, "'url' .* to be a text or a list"),
        ({"url": 3}, "'url' .* to be a text or a list"),
        ({"url": "http://a", "timeout": 0}, "'timeout' .* a number above 0"),
        ({"url": "http://a", "retries": -1}, "'retries' .* at least 0"),
        ({"url": "http://a", "backoff": "1"}, "'backoff' .* a number above 0"),
        ({"url": "http://a", "batch_size": 0}, "'batch_size' .* at least 1"),
        ({"url": "http://a", "encoding": "jpeg"}, "known: raw, png|known: png, raw"),
        ({"url": "http://a", "port": 1}, "unknown option 'port' of reward 'remote'"),
    ],
)
def test_wrong_options_are_refused(options, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        make_reward("remote", options={"remote": options})
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_only_a_remote_reward_needs_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('httpx2', 'starlette', 'uvicorn'): sys.modules[name] = None\n"
        "import diffusion_gym\n"
        "from diffusion_gym.rewards.serve import serve\n"
        "def said(call):\n"
        "    try: call()\n"
        "    except diffusion_gym.ModelLoadError as error: print(error)\n"
        "reward = diffusion_gym.make_reward('jpeg_compressibility')\n"
        "said(lambda: diffusion_gym.make_reward({'remote': 'http://127.0.0.1:1'}))\n"
        "said(lambda: serve(reward))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count('pip install "diffusion-gym[remote]"') == 2


def test_sockets_without_a_listener_are_closed() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=f"cannot listen at 127.0.0.1:{port}"):
            listen("127.0.0.1", port)
    with pytest.raises(InvalidInputError, match=r"cannot listen at 127\.0\.0\.1:70000"):
        listen("127.0.0.1", 70000)
