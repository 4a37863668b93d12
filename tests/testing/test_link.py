"""A link does to datagrams what it says, and to each of them independently of all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.testing.link import Datagram, Link, LinkState, Statistics

_COUNT = 1_000
_INTERVAL = 0.001
_SIZE = 1_200

_shares = st.floats(0, 1)
_seeds = st.integers(0, 2**32)
_links = st.builds(
    Link,
    latency=st.floats(0, 1),
    jitter=st.floats(0, 1),
    bandwidth=st.one_of(st.just(float("inf")), st.floats(1_000, 1e9)),
    queue=st.integers(0, 100_000),
    loss=_shares,
    duplication=_shares,
    reordering=_shares,
    truncation=_shares,
)


def _sent(link: Link, seed: int = 1, flow: str = "client 1 up", count: int = _COUNT) -> list[Datagram]:
    """What becomes of datagrams of one size, one each millisecond."""
    state = LinkState(seed, flow, Statistics())
    return [state.send(_SIZE, number * _INTERVAL, link, partitioned=False) for number in range(count)]


def _delays(reports: list[Datagram]) -> list[float]:
    return [report.arrivals[0].time - report.time for report in reports]


def _overtaken(reports: list[Datagram]) -> int:
    """How many datagrams arrive after one that was sent later."""
    times = [report.arrivals[0].time for report in reports]
    return sum(time > min(times[number + 1 :]) for number, time in enumerate(times[:-1]))


def test_a_good_link_delivers_everything_whole_in_order_after_its_latency() -> None:
    reports = _sent(Link(latency=0.05))
    assert all(abs(delay - 0.05) < 1e-9 for delay in _delays(reports))
    assert all([arrival.size for arrival in report.arrivals] == [_SIZE] for report in reports)
    assert _overtaken(reports) == 0


def test_what_is_reordered_is_held_back_for_one_to_two_latencies_and_overtaken() -> None:
    delays = _delays(_sent(Link(latency=0.05, reordering=0.2)))
    held = [delay for delay in delays if delay > 0.05 + 1e-9]
    assert 0.15 * _COUNT < len(held) < 0.25 * _COUNT
    assert 0.1 - 1e-9 <= min(held) < 0.105
    assert 0.145 < max(held) <= 0.15 + 1e-9
    # All but those of the last 100 milliseconds at the most, after which nothing is sent that could overtake them.
    assert len(held) - 40 <= _overtaken(_sent(Link(latency=0.05, reordering=0.2))) <= len(held)


def test_without_a_latency_what_is_reordered_is_overtaken_too() -> None:
    assert _overtaken(_sent(Link(latency=0, reordering=0.2))) > 0.1 * _COUNT


def test_jitter_is_spread_from_nothing_to_its_bound() -> None:
    delays = _delays(_sent(Link(latency=0.05, jitter=0.1)))
    assert 0.05 - 1e-9 <= min(delays) < 0.055
    assert 0.145 < max(delays) <= 0.15 + 1e-9
    assert 0.095 < sum(delays) / _COUNT < 0.105


def test_what_is_truncated_arrives_with_some_of_its_bytes() -> None:
    sizes = [report.arrivals[0].size for report in _sent(Link(truncation=0.2))]
    cut = [size for size in sizes if size != _SIZE]
    assert 0.15 * _COUNT < len(cut) < 0.25 * _COUNT
    assert 0 <= min(cut) < 60
    assert _SIZE - 60 < max(cut) < _SIZE


@given(queue=st.integers(0, 2 * _SIZE))
def test_what_finds_a_link_idle_passes_however_short_its_queue_is(queue: int) -> None:
    link = Link(bandwidth=1_000.0, queue=queue)
    state = LinkState(1, "flow", Statistics())
    idle = [state.send(_SIZE, number * _SIZE / 1_000, link, partitioned=False) for number in range(10)]
    assert {report.fate for report in idle} == {"passed"}
    assert (state.send(_SIZE, 10 * _SIZE / 1_000 - 0.001, link, partitioned=False).fate == "passed") == (queue > _SIZE)


@pytest.mark.parametrize("what", ["latency", "jitter"])
def test_a_link_on_which_nothing_ever_arrives_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} of a Link must be finite: use partition"):
        Link(**{what: float("inf")})


def test_what_is_duplicated_arrives_twice_within_a_latency() -> None:
    reports = _sent(Link(latency=0.05, duplication=0.2))
    twice = [report.arrivals for report in reports if len(report.arrivals) == 2]
    assert 0.15 * _COUNT < len(twice) < 0.25 * _COUNT
    assert all(first.size == second.size and 0 <= second.time - first.time <= 0.05 for first, second in twice)


@given(link=_links, seed=_seeds)
def test_whatever_a_link_is_its_reports_and_its_counts_agree(link: Link, seed: int) -> None:
    statistics = Statistics()
    state = LinkState(seed, "flow", statistics)
    reports = [state.send(_SIZE, number * _INTERVAL, link, partitioned=number % 5 == 0) for number in range(50)]
    assert [report.number for report in reports] == list(range(50))
    for report in reports:
        assert bool(report.arrivals) == (report.fate == "passed")
        assert all(arrival.time >= report.time + link.latency and 0 <= arrival.size <= _SIZE for arrival in report.arrivals)
    fates = [report.fate for report in reports]
    assert (statistics.sent, statistics.partitioned) == (50, 10)
    assert (statistics.lost, statistics.overflowed) == (fates.count("lost"), fates.count("overflowed"))
    assert statistics.duplicated == sum(len(report.arrivals) == 2 for report in reports)


@given(link=_links, seed=_seeds, others=st.lists(st.booleans(), min_size=20, max_size=20))
def test_the_fates_of_a_flow_depend_on_no_other_flow(link: Link, seed: int, others: list[bool]) -> None:
    alone = _sent(link, seed, "client 1 up", 20)
    statistics = Statistics()
    state, other = (LinkState(seed, flow, statistics) for flow in ("client 1 up", "client 2 up"))
    beside = list[Datagram]()
    for number, disturbed in enumerate(others):
        if disturbed:
            other.send(_SIZE, number * _INTERVAL, link, partitioned=False)
        beside.append(state.send(_SIZE, number * _INTERVAL, link, partitioned=False))
    assert beside == alone


@given(seed=_seeds, flow=st.sampled_from(["client 1 down", "client 2 up"]), more=st.integers(1, 100))
def test_seeds_and_flows_have_fates_of_their_own(seed: int, flow: str, more: int) -> None:
    link = Link(loss=0.5)

    def fates(seed: int, flow: str) -> list[str]:
        return [report.fate for report in _sent(link, seed, flow, 200)]

    first = fates(seed, "client 1 up")
    assert first not in (fates(seed, flow), fates(seed + more, "client 1 up"))
