"""``python -m tests.benchmark.rows``: what reading a part of a message costs in ROW, beside a whole decode in XLANG of the same message in the same run.

The two take turns, so that what else the machine does meets both. ``--plot FILE`` draws where the one overtakes the other; it needs matplotlib.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import islice
from time import process_time
from typing import Any

from aster.codec import make_codec, materialize
from aster.types import SerializationMode

__all__ = ["main"]

_Work = Callable[[], object]


@dataclass
class Line:
    """An item of a long list."""

    sku: str = ""
    count: int = 0
    price: float = 0.0


@dataclass
class Lines:
    """A long list."""

    lines: list[Line] = field(default_factory=list[Line])


Wide = make_dataclass("Wide", [*((f"field_{place:02}", str if place % 2 else int) for place in range(19)), ("blob", bytes)])
"""Twenty fields, one of which may be large."""


def _wide(blob: int) -> Any:
    return Wide(*(f"text {place}" if place % 2 else place for place in range(19)), bytes(blob))


def _lines(count: int) -> Lines:
    return Lines([Line(f"sku-{number}", number, number / 2) for number in range(count)])


@dataclass(frozen=True)
class _Pair:
    """One message in the two modes: what decodes it whole in XLANG, and what gives a view of it in ROW, its schema being known."""

    whole: _Work
    view: Callable[[], Any]
    encode_xlang: _Work
    encode_row: _Work

    @classmethod
    def of(cls, value: Any) -> _Pair:
        """Of a message."""
        kind: type[Any] = value.__class__
        tags: dict[type, str] = {kind: f"bench/{kind.__name__}", Line: "bench/Line"}
        xlang, row = make_codec(SerializationMode.XLANG, tags), make_codec(SerializationMode.ROW, tags)
        encode: Any = row.encoder(kind)
        decode: Any = row.decoder(kind)
        encode_row, decode_row = encode.for_stream(), decode.for_stream()
        decode_row(encode_row(value))
        encode_row.sent()
        payload, bytes_of_xlang = encode_row(value), xlang.encoder(kind)(value)
        decode_xlang, encode_xlang = xlang.decoder(kind), xlang.encoder(kind)
        return cls(lambda: decode_xlang(bytes_of_xlang), lambda: decode_row(payload), lambda: encode_xlang(value), lambda: encode_row(value))


def _ratio(one: _Work, other: _Work, rounds: int, seconds: float) -> float:
    """How many times the processor time of ``other`` that of ``one`` is: the median over rounds in which both take turns."""
    return statistics.median(_time(other, seconds) / _time(one, seconds) for _ in range(rounds))


def _time(work: _Work, seconds: float) -> float:
    """Seconds for one of it, repeated for so many seconds."""
    repeats = 1
    while True:
        began = process_time()
        for _ in range(repeats):
            work()
        spent = process_time() - began
        if spent >= seconds:
            return spent / repeats
        repeats *= 2


def _read_some(pair: _Pair, fields: int) -> _Work:
    names = [f"field_{place:02}" for place in range(fields)]

    def read() -> None:
        view = pair.view()
        for name in names:
            getattr(view, name)

    return read


def _read_items(pair: _Pair, items: int) -> _Work:
    def read() -> None:
        for line in islice(pair.view().lines, items):
            _ = line.sku, line.count, line.price

    return read


def _one_item(pair: _Pair) -> _Work:
    return lambda: pair.view().lines[500].count


def _comparisons() -> Iterator[tuple[str, _Work, _Work]]:
    """What is compared: a name, the work in ROW, and that in XLANG."""
    wide, small, lines = _Pair.of(_wide(1_000_000)), _Pair.of(_wide(0)), _Pair.of(_lines(1_000))
    yield "2 of 20 fields, beside a blob of 1 MB", _read_some(wide, 2), wide.whole
    yield "2 of 20 fields, without a blob", _read_some(small, 2), small.whole
    yield "all fields but the blob of 1 MB", _read_some(wide, 19), wide.whole
    yield "all 20 fields, without a blob, materialized", lambda: materialize(small.view()), small.whole
    yield "1 of 1,000 items of three fields", _one_item(lines), lines.whole
    yield "the first 100 of 1,000 items", _read_items(lines, 100), lines.whole
    yield "all 1,000 items, field by field", _read_items(lines, 1_000), lines.whole
    yield "1,000 items, materialized", lambda: materialize(lines.view()), lines.whole
    yield "to encode 20 fields with a blob of 1 MB", wide.encode_row, wide.encode_xlang
    yield "to encode 20 fields", small.encode_row, small.encode_xlang
    yield "to encode 1,000 items", lines.encode_row, lines.encode_xlang


def _plot(path: str, rounds: int, seconds: float) -> None:
    """Draw how many times faster than XLANG it is: by the size of a blob that is not read, and by how many items of a list are."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    sizes = [0, 1_000, 10_000, 100_000, 1_000_000, 3_000_000]
    pairs = [_Pair.of(_wide(size)) for size in sizes]
    for fields in (2, 10, 19):
        ratios = [_ratio(_read_some(pair, fields), pair.whole, rounds, seconds) for pair in pairs]
        left.plot([max(size, 100) for size in sizes], ratios, "o-", label=f"{fields} of 20")
    left.set(xscale="log", yscale="log", xlabel="bytes of the blob that is not read", ylabel="times faster than XLANG")
    counts = [1, 3, 10, 30, 100, 300, 1_000]
    for length in (1_000, 10_000):
        pair = _Pair.of(_lines(length))
        right.plot(counts, [_ratio(_read_items(pair, count), pair.whole, rounds, seconds) for count in counts], "o-", label=f"of {length:,}")
    right.set(xscale="log", yscale="log", xlabel="items that are read, each with its three fields")
    for axes, title in ((left, "fields"), (right, "items of a list")):
        axes.axhline(1, color="grey", linewidth=1)
        axes.legend(title=title)
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.rows", description="Rows beside XLANG, in processor time.")
    parser.add_argument("--rounds", type=int, default=9, help="how often the two take turns (default: 9)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of each measurement (default: 0.05)")
    parser.add_argument("--plot", metavar="FILE", help="draw a plot as well, such as rows.svg; needs matplotlib")
    options = parser.parse_args(arguments)
    print("| what | times faster than XLANG |\n|---|---|")
    for name, row, xlang in _comparisons():
        print(f"| {name} | {_ratio(row, xlang, options.rounds, options.seconds):.3g} |", flush=True)
    if options.plot:
        _plot(options.plot, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
