"""What waits goes together; what is refused goes alone; a full queue says so."""

import asyncio
import threading
import time

import pytest

from distilbert_jax.errors import InputError
from distilbert_jax.serving.batching import Batcher
from distilbert_jax.serving.requests import RequestError


class Doubling:
    """Texts twice; options are what goes together. Keeps the batches, and holds the first until it is let go."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def together(self, options):
        return options

    def run(self, texts, options):
        self.batches.append(list(texts))
        if not self.go.wait(10):
            raise TimeoutError
        if "bad" in texts:
            raise InputError("bad is refused", field="inputs")
        if "broken" in texts:
            raise ZeroDivisionError
        return [2 * text for text in texts]


@pytest.fixture
def work():
    return Doubling()


@pytest.fixture
def batcher():
    batcher = Batcher(batch_tokens=4, wait_ms=0.0, most_waiting=6)
    yield batcher
    batcher.close()


async def answers(batcher, work, *requests):
    """The results of requests, each (text, option, tokens), that come while the first computes."""

    async def one(text, option, tokens):
        return (await batcher.submit(work, [text], option, [tokens]))[0]

    first = asyncio.create_task(one("first", None, 1))
    while not work.batches:
        await asyncio.sleep(0.001)
    rest = [asyncio.create_task(one(*request)) for request in requests]
    await asyncio.sleep(0.01)
    work.go.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    return results[1:]


def test_what_waits_goes_together_up_to_the_tokens_of_a_batch(batcher, work):
    results = asyncio.run(answers(batcher, work, ("a", 1, 2), ("b", 2, 1), ("c", 1, 2), ("d", 1, 1)))
    assert results == ["aa", "bb", "cc", "dd"]
    assert work.batches == [["first"], ["a", "c"], ["b"], ["d"]]


def test_a_text_longer_than_a_batch_is_one_of_its_own(batcher, work):
    assert asyncio.run(answers(batcher, work, ("long", 1, 9), ("a", 1, 1))) == ["longlong", "aa"]
    assert work.batches[1:] == [["long"], ["a"]]


def test_what_is_refused_takes_no_others_with_it(batcher, work, capsys):
    a, bad, broken = asyncio.run(answers(batcher, work, ("a", 1, 1), ("bad", 1, 1), ("broken", 1, 1)))
    assert a == "aa"
    assert isinstance(bad, RequestError)
    assert (bad.status, bad.field) == (422, "inputs")
    assert isinstance(broken, RequestError)
    assert broken.status == 500
    assert "ZeroDivisionError" not in str(broken)  # the client is told nothing of the code
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_full_queue_says_when_to_come_again(batcher, work):
    *_, last = asyncio.run(answers(batcher, work, *((str(i), 1, 1) for i in range(7))))
    assert isinstance(last, RequestError)
    assert (last.status, last.retry_after) == (429, 1)


def test_what_a_client_no_longer_waits_for_is_dropped(batcher, work):
    async def leave():
        first = asyncio.create_task(batcher.submit(work, ["first"], None, [1]))
        while not work.batches:
            await asyncio.sleep(0.001)
        left = asyncio.create_task(batcher.submit(work, ["left"], 1, [1]))
        stays = asyncio.create_task(batcher.submit(work, ["stays"], 1, [1]))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0.01)
        work.go.set()
        return await first, await stays

    assert asyncio.run(leave()) == (["firstfirst"], ["staysstays"])
    assert work.batches == [["first"], ["stays"]]


def test_a_closed_queue_answers_what_it_took(work):
    batcher = Batcher(batch_tokens=4, wait_ms=0.0, most_waiting=6)

    async def close():
        waiting = asyncio.create_task(batcher.submit(work, ["a", "b"], 1, [1, 1]))
        await asyncio.sleep(0.01)
        work.go.set()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(RequestError) as refused:
            await batcher.submit(work, ["late"], 1, [1])
        return await waiting, refused.value.status

    assert asyncio.run(close()) == (["aa", "bb"], 503)


def test_while_texts_keep_coming_a_batch_waits_up_to_a_tenth_of_the_last_one(work):
    batcher = Batcher(batch_tokens=100, wait_ms=1.0, most_waiting=100)
    batcher._took = 100.0  # of a batch before: a pause is a second, and all may take ten

    async def one_by_one():
        tasks = []
        for _ in range(5):
            tasks.append(asyncio.create_task(batcher.submit(work, ["a"], None, [1])))
            await asyncio.sleep(0.02)
        tasks.append(asyncio.create_task(batcher.submit(work, ["a"] * 95, None, [1] * 95)))
        return await asyncio.gather(*tasks)

    work.go.set()
    asyncio.run(one_by_one())
    batcher.close()
    assert [len(batch) for batch in work.batches] == [100]


def test_a_batch_waits_for_more_while_it_has_room(work):
    batcher = Batcher(batch_tokens=3, wait_ms=10_000.0, most_waiting=6)
    work.go.set()

    async def three():
        tasks = []
        for text in "abc":
            tasks.append(asyncio.create_task(batcher.submit(work, [text], 1, [1])))
            await asyncio.sleep(0.005)
        begun = time.monotonic()
        await asyncio.gather(*tasks)
        return time.monotonic() - begun

    assert asyncio.run(three()) < 5.0  # full: it does not wait its ten seconds out
    assert work.batches == [["a", "b", "c"]]
    batcher.close()
