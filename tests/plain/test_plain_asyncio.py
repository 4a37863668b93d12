"""A plain install, under plain ``asyncio.run``, over QUIC.

These tests also run where only the package, its dependencies and pytest are installed, so they import nothing from ``tests`` and use no plugin.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import aster


@aster.wire_type("tests.plain/Word")
@dataclass
class Word:
    text: str = ""


@aster.wire_type("tests.plain/Count")
@dataclass
class Count:
    number: int = 0


@aster.service("Words")
class WordService:
    """One method of each pattern, and the ends of the call that never ends by itself."""

    def __init__(self, on_stall: Callable[[], object] = lambda: None) -> None:
        self.on_stall = on_stall
        self.unwound = 0

    @aster.rpc
    async def upper(self, word: Word) -> Word:
        return Word(word.text.upper())

    @aster.server_stream
    async def letters(self, word: Word) -> AsyncIterator[Word]:
        for letter in word.text:
            yield Word(letter)

    @aster.client_stream
    async def count(self, words: AsyncIterator[Word]) -> Count:
        return Count(len([word async for word in words]))

    @aster.bidi_stream
    async def echo(self, words: AsyncIterator[Word]) -> AsyncIterator[Word]:
        async for word in words:
            yield word

    @aster.rpc
    async def stall(self, word: Word) -> Word:
        self.on_stall()
        try:
            await asyncio.Event().wait()
        finally:
            self.unwound += 1
        return word


def test_all_four_patterns_work_under_asyncio_run() -> None:
    async def main() -> None:
        async with aster.serve(services=[WordService()]) as server, aster.connect(server.address) as client:
            words = await client.client(WordService)
            assert await words.upper(Word("a")) == Word("A")
            assert [letter.text async for letter in words.letters(Word("abc"))] == ["a", "b", "c"]
            assert await words.count(Word(text) for text in "abcd") == Count(4)
            assert [word.text async for word in words.echo([Word("x"), Word("y")])] == ["x", "y"]

    asyncio.run(main())


def test_concurrent_calls_from_an_asyncio_task_group_all_succeed() -> None:
    async def main() -> list[str]:
        async with aster.serve(services=[WordService()]) as server, aster.connect(server.address) as client:
            words = await client.client(WordService)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(words.upper(Word(text))) for text in "abc"]
            return [task.result().text for task in tasks]

    assert asyncio.run(main()) == ["A", "B", "C"]


def test_an_asyncio_timeout_and_a_task_cancellation_reach_the_handler() -> None:
    async def stall_until_it_times_out(service: WordService, words: WordService) -> None:
        async with asyncio.timeout(None) as limit:
            service.on_stall = lambda: limit.reschedule(0)  # it expires once the handler runs
            await words.stall(Word())

    async def main(service: WordService) -> None:
        async with aster.serve(services=[service]) as server, aster.connect(server.address) as client:
            words = await client.client(WordService)
            with pytest.raises(TimeoutError):
                await stall_until_it_times_out(service, words)
            task = asyncio.create_task(words.stall(Word()))
            service.on_stall = task.cancel
            with pytest.raises(asyncio.CancelledError):
                await task

    service = WordService()
    asyncio.run(main(service))
    assert service.unwound == 2


def test_a_method_timeout_is_a_deadline_exceeded() -> None:
    async def main() -> None:
        async with aster.serve(services=[WordService()]) as server, aster.connect(server.address) as client:
            words = aster.with_options(await client.client(WordService), timeout=0.05)
            with pytest.raises(aster.RpcError) as caught:
                await words.stall(Word())
            assert caught.value.code is aster.StatusCode.DEADLINE_EXCEEDED

    asyncio.run(main())


_A_CALL_WITHOUT_TRIO = """
import asyncio, dataclasses, sys
import aster
assert "trio" not in sys.modules, "importing aster imported trio"

@aster.wire_type("tests.plain/Ping")
@dataclasses.dataclass
class Ping:
    number: int = 0

@aster.service("Pings")
class PingService:
    @aster.rpc
    async def ping(self, ping: Ping) -> Ping:
        return ping

async def main():
    async with aster.serve(services=[PingService()]) as server, aster.connect(server.address) as client:
        pings = await client.client(PingService)
        assert await pings.ping(Ping(7)) == Ping(7)

asyncio.run(main())
assert "trio" not in sys.modules, "a call imported trio"
"""


def test_neither_the_import_nor_a_call_on_asyncio_imports_trio() -> None:
    # The folder that this process has aster from, wherever the other process starts.
    environment = os.environ | {"PYTHONPATH": str(Path(aster.__file__).parent.parent)}
    result = subprocess.run([sys.executable, "-c", _A_CALL_WITHOUT_TRIO], env=environment, capture_output=True, text=True, timeout=15, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
