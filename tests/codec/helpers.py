"""What several tests of the codec do alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from aster.codec import checks, engine, make_codec, materialize, walk
from aster.codec.contract import Codec
from aster.codec.row import binding
from aster.types import SerializationMode
from tests.codec.models import Tree, tags_of

__all__ = ["at_once", "codec_of_deeper_trees", "decoded", "nested"]


def decoded(codec: Codec, cls: type[Any], data: bytes) -> Any:
    """All of a message, which in ROW is read only when it is asked for."""
    return materialize(codec.decoder(cls)(data))


def codec_of_deeper_trees(mode: SerializationMode) -> Codec:
    """A codec of trees that lets them be nested a hundred deep, as no peer of ours does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (binding, checks, engine, walk):
            patch.setattr(module, "MAX_NESTING", 100)
        return make_codec(mode, tags_of(Tree))


def nested(depth: int, *, sideways: bool) -> Tree:
    """A tree with so many others in it, each in the next: through the list of children, or through the parent."""
    tree = Tree("leaf")
    for _ in range(depth):
        tree = Tree("node", [tree]) if sideways else Tree("node", parent=tree)
    return tree


def at_once(work: Callable[[int], None], number: int) -> None:
    """Run ``work`` in so many threads, which begin together; each is given its own number."""
    start = threading.Barrier(number)

    def begin(index: int) -> None:
        start.wait()
        work(index)

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
