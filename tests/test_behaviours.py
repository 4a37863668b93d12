"""Which tests prove each behaviour that Aster holds itself to: a map, and the check that all of it is there and runs everywhere.

The numbers are those of the list of behaviours that the project works by. Each test named runs on asyncio and on trio, over memory and over QUIC, unless
``_LESS`` says why not.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

_TESTS = Path(__file__).parent
_LAST = 44

_EVERYWHERE = frozenset(itertools.product(("asyncio", "trio"), ("memory", "quic")))


class Behaviour(NamedTuple):
    """What can be relied on, and what proves it: names of tests by file."""

    sentence: str
    tests: Mapping[str, tuple[str, ...]]


_BEHAVIOURS: dict[int, Behaviour] = {
    1: Behaviour("a message without content goes there and comes back", {"rpc/test_patterns.py": ("test_an_empty_message_travels_both_ways",)}),
    2: Behaviour(
        "hundreds of kilobytes in one call are the same bytes at the other end", {"rpc/test_patterns.py": ("test_a_large_unary_call_arrives_byte_for_byte",)}
    ),
    3: Behaviour("a handler of streamed requests sees all of them", {"rpc/test_patterns.py": ("test_a_client_streams_sum_is_right",)}),
    4: Behaviour("a stream of requests may be empty", {"rpc/test_patterns.py": ("test_a_client_stream_with_zero_requests_works",)}),
    5: Behaviour(
        "streamed responses keep their order and their sizes",
        {"rpc/test_patterns.py": ("test_a_server_stream_keeps_exact_order_and_sizes", "test_messages_of_any_sizes_arrive_in_order_and_once")},
    ),
    6: Behaviour("a stream of responses may be empty", {"rpc/test_patterns.py": ("test_zero_responses_are_a_normal_end",)}),
    7: Behaviour(
        "a conversation takes turns without holding back", {"rpc/test_patterns.py": ("test_each_reply_of_a_ping_pong_arrives_before_the_next_request_is_sent",)}
    ),
    8: Behaviour("a conversation in which nobody speaks ends well", {"rpc/test_patterns.py": ("test_an_empty_bidirectional_call_ends_well",)}),
    9: Behaviour(
        "a handler that is done early ends its call, and the sender stops",
        {
            "rpc/test_patterns.py": ("test_a_server_that_finishes_before_the_client_half_closes_ends_the_call_at_once",),
            "rpc/test_cancellation.py": ("test_a_handler_that_returns_early_stops_the_sender_without_an_error",),
        },
    ),
    10: Behaviour(
        "the caller gets the status that the handler chose", {"rpc/test_status.py": ("test_every_status_code_arrives_on_unary_and_on_streaming_calls",)}
    ),
    11: Behaviour(
        "and the very text that it wrote",
        {"rpc/test_status.py": ("test_a_message_arrives_exactly_with_unicode_newlines_and_white_space", "test_any_text_arrives_as_it_was_written")},
    ),
    12: Behaviour(
        "a failure takes back none of the responses ahead of it",
        {"rpc/test_status.py": ("test_an_error_after_some_responses_keeps_those", "test_an_error_waits_until_the_responses_before_it_were_read")},
    ),
    13: Behaviour(
        "what a server does not have is named, with what it has instead",
        {
            "rpc/test_missing.py": (
                "test_a_client_is_told_at_once_which_services_there_are_instead",
                "test_a_client_is_told_at_once_which_versions_there_are_instead",
                "test_a_call_of_an_unknown_method_names_the_methods_that_there_are",
                "test_a_server_says_itself_what_it_does_not_have",
            )
        },
    ),
    14: Behaviour(
        "metadata and trailers arrive whole and in order, also beside a failure",
        {
            "rpc/test_metadata.py": (
                "test_metadata_and_trailers_arrive_on_success",
                "test_metadata_and_trailers_arrive_on_an_error",
                "test_the_trailers_of_a_bug_arrive_too",
                "test_any_metadata_arrives_as_it_was_given",
            )
        },
    ),
    15: Behaviour(
        "metadata above a limit is refused as a whole",
        {
            "rpc/test_metadata.py": (
                "test_metadata_at_the_servers_limit_passes_and_one_byte_more_is_not_sent",
                "test_a_server_refuses_metadata_above_its_limit_whoever_sends_it",
                "test_trailers_above_the_clients_limit_fail_the_call_rather_than_be_cut",
                "test_a_client_refuses_metadata_above_its_limit_whoever_sends_it",
            )
        },
    ),
    16: Behaviour(
        "a caller may cancel at any moment of a call",
        {
            "rpc/test_cancellation.py": (
                "test_a_call_made_in_a_cancelled_scope_leaves_no_handler",
                "test_cancelling_while_requests_are_sent_cancels_the_handler_and_closes_the_requests",
                "test_cancelling_a_call_cancels_its_handler_in_the_middle_of_an_await",
            ),
            "rpc/test_cancellation_sweep.py": ("test_cancellation_after_any_turn_of_the_scheduler_unwinds_the_handler_exactly_once",),
            "laws/test_law_03_cancellation_crosses.py": (
                "test_a_caller_that_is_cancelled_at_any_time_cancels_its_handler",
                "test_cancelling_at_every_step_of_a_call_leaves_nothing",
            ),
        },
    ),
    17: Behaviour(
        "also after it has had responses, which it keeps",
        {
            "rpc/test_cancellation.py": ("test_cancelling_after_the_first_response_keeps_it_and_cancels_the_handler",),
            "laws/test_law_03_cancellation_crosses.py": ("test_responses_that_came_before_a_cancellation_were_received",),
        },
    ),
    18: Behaviour(
        "a cancelled handler unwinds, wherever it was",
        {
            "rpc/test_cancellation.py": ("test_cancelling_a_call_cancels_its_handler_in_the_middle_of_an_await",),
            "rpc/test_cancellation_sweep.py": ("test_cancellation_at_every_place_of_a_handler_lands_there_exactly_once",),
            "laws/test_law_03_cancellation_crosses.py": ("test_a_caller_that_is_cancelled_at_any_time_cancels_its_handler",),
        },
    ),
    19: Behaviour(
        "a handler that makes up a cancellation fails its call like any bug",
        {
            "rpc/test_cancellation.py": (
                "test_a_handler_that_raises_cancellation_by_hand_fails_its_call_with_internal",
                "test_a_handler_that_cancels_its_own_task_fails_its_call_with_internal",
            ),
            "laws/test_law_07_one_outcome.py": ("test_every_call_has_one_outcome_at_each_end",),
        },
    ),
    20: Behaviour(
        "who is cancelled sees its backend's own cancellation",
        {
            "rpc/test_cancellation.py": (
                "test_the_callers_own_cancellation_is_native_and_is_not_swallowed",
                "test_fail_after_around_a_call_raises_timeout_error",
            ),
            "laws/test_law_03_cancellation_crosses.py": ("test_a_caller_that_is_cancelled_at_any_time_cancels_its_handler",),
            "laws/test_law_05_deadlines_shrink.py": ("test_an_expired_timeout_is_deadline_exceeded_and_an_expired_scope_is_native",),
        },
    ),
    21: Behaviour(
        "every pattern keeps a timeout",
        {
            "rpc/test_deadlines.py": ("test_a_timeout_fails_the_call_with_deadline_exceeded_on_time_and_unwinds_the_handler",),
            "rpc/test_one_outcome.py": ("test_a_timeout_is_kept_by_the_clients_own_clock_when_the_server_says_nothing",),
        },
    ),
    22: Behaviour("a millisecond is a timeout too", {"rpc/test_deadlines.py": ("test_a_deadline_of_a_millisecond_is_honoured",)}),
    23: Behaviour(
        "a generator is interrupted also where it does not wait for its reader",
        {
            "rpc/test_deadlines.py": ("test_a_deadline_interrupts_a_handler_between_yields",),
            "laws/test_law_05_deadlines_shrink.py": ("test_an_expired_timeout_is_deadline_exceeded_and_an_expired_scope_is_native",),
        },
    ),
    24: Behaviour(
        "what a handler calls has no more time than the handler",
        {
            "rpc/test_deadlines.py": (
                "test_a_deadline_shrinks_and_never_grows_over_three_hops",
                "test_a_deadline_that_expires_at_the_third_hop_unwinds_every_hop",
            ),
            "laws/test_law_05_deadlines_shrink.py": ("test_over_three_hops_a_deadline_only_shrinks",),
        },
    ),
    25: Behaviour(
        "a thousand timeouts at one moment are kept and leave nothing",
        {
            "rpc/test_deadlines.py": ("test_a_thousand_calls_that_time_out_at_once_all_fail_on_time_and_leave_nothing_behind",),
            "laws/test_law_05_deadlines_shrink.py": ("test_many_calls_that_time_out_together_all_fail_on_time_and_leave_nothing",),
        },
    ),
    26: Behaviour(
        "a limit of size holds to the byte, for every message of every pattern, whoever sends it",
        {
            "rpc/test_behaviours_sizes.py": (
                "test_a_request_at_the_servers_limit_passes_and_one_byte_more_is_never_sent",
                "test_a_server_refuses_a_request_above_its_limit_whoever_sends_it",
                "test_a_request_above_the_servers_limit_leaves_an_open_call_as_it_was",
                "test_a_response_at_the_clients_limit_passes_and_one_byte_more_fails_its_call",
                "test_a_client_refuses_a_response_above_its_limit_whoever_sends_it",
            ),
            "protocol/test_call.py": ("test_an_oversized_message_is_refused_at_the_chunk_that_crosses_the_limit",),
        },
    ),
    27: Behaviour(
        "few bytes cannot be made to decode to much, or slowly",
        {
            "rpc/test_behaviours_sizes.py": (
                "test_a_small_request_that_decodes_to_too_much_is_an_invalid_argument_and_its_neighbour_goes_on",
                "test_a_small_response_that_decodes_to_too_much_fails_its_call_and_its_neighbour_goes_on",
                "test_what_swells_takes_no_more_memory_than_a_message_may_decode_to",
            ),
            "codec/test_hostile.py": (
                "test_a_message_that_would_swell_is_a_decode_error",
                "test_a_flood_of_equal_hashes_is_a_decode_error",
                "test_nesting_beyond_the_limit_is_a_decode_error",
            ),
        },
    ),
    28: Behaviour(
        "a call in a mode that its method does not allow is refused, and both modes are named",
        {
            "rpc/test_behaviours_wire.py": (
                "test_a_client_is_told_which_modes_a_method_allows_instead_and_no_handler_begins",
                "test_a_server_refuses_a_mode_that_a_method_does_not_allow_by_its_name",
                "test_each_method_is_held_to_its_own_modes_and_not_to_its_services",
            )
        },
    ),
    29: Behaviour(
        "one message means one: none and two are refused, by both ends",
        {
            "rpc/test_behaviours_wire.py": (
                "test_a_server_refuses_any_number_of_requests_but_one_where_one_is_due",
                "test_a_client_refuses_any_number_of_responses_but_one_where_one_is_due",
            ),
            "rpc/test_requests.py": ("test_a_call_takes_exactly_one_request",),
        },
    ),
    30: Behaviour(
        "a half that breaks off anywhere is a failure, and never looks like its end",
        {
            "rpc/test_behaviours_wire.py": (
                "test_requests_that_are_cut_short_anywhere_are_an_error_and_no_handler_sees_their_end",
                "test_responses_that_are_cut_short_anywhere_are_an_error_behind_those_that_were_whole",
                "test_responses_that_end_while_requests_are_sent_stop_the_sender_and_are_an_error",
                "test_a_handler_that_waits_when_its_requests_break_off_is_cancelled",
            ),
            "rpc/test_one_outcome.py": ("test_a_stream_that_ends_without_an_outcome_fails_its_call",),
        },
    ),
    31: Behaviour(
        "corruption costs the call that it is in, or on the control stream that connection, and nobody else",
        {
            "rpc/test_behaviours_corrupt.py": (
                "test_requests_that_begin_with_what_the_page_refuses_fail_their_call_alone",
                "test_a_broken_frame_behind_a_request_cancels_its_handler_and_no_other",
                "test_whatever_a_call_is_corrupted_to_it_has_one_outcome_and_its_neighbours_go_on",
                "test_responses_that_begin_with_what_the_page_refuses_fail_their_call_alone",
                "test_a_streamed_response_that_is_corrupt_comes_behind_those_that_were_whole",
                "test_a_corrupt_control_stream_costs_a_client_its_connection_and_no_other_client_anything",
                "test_a_corrupt_hello_begins_no_call",
                "test_a_corrupt_control_stream_of_a_server_fails_each_call_once_with_unavailable",
            )
        },
    ),
    32: Behaviour(
        "who does not read holds up who sends, and memory is bounded at both ends",
        {
            "laws/test_law_09_backpressure.py": (
                "test_a_caller_that_does_not_read_holds_up_its_handler",
                "test_a_handler_that_does_not_read_holds_up_its_caller",
                "test_a_reader_that_does_not_read_costs_no_more_memory_than_a_window_and_a_message_at_each_end",
                "test_a_client_that_ignores_credit_costs_no_more_memory_either",
            )
        },
    ),
    33: Behaviour(
        "and its neighbours on the connection are as fast as without it",
        {"laws/test_law_10_isolation.py": ("test_calls_that_fail_or_wait_leave_their_neighbours_alone",)},
    ),
    34: Behaviour(
        "calls that are too many wait in line, as long as their deadlines let them",
        {
            "rpc/test_behaviours_queue.py": (
                "test_calls_above_the_limit_wait_and_all_succeed",
                "test_calls_get_their_turns_in_the_order_in_which_they_were_made",
                "test_who_calls_again_and_again_does_not_overtake_those_who_wait",
                "test_who_gives_up_waiting_costs_nothing_and_keeps_nobody_from_a_turn",
                "test_those_who_wait_may_be_cancelled_in_any_order_and_the_rest_keep_theirs",
                "test_a_call_waits_for_its_turn_no_longer_than_its_deadline",
                "test_a_call_whose_turn_comes_inside_its_deadline_succeeds",
                "test_the_limit_is_of_one_connection_and_other_clients_do_not_wait",
            ),
            "rpc/test_deadlines.py": ("test_time_spent_in_the_queue_is_taken_from_what_the_handler_gets",),
            "rpc/test_session_endings.py": ("test_three_hundred_idle_sessions_starve_no_call",),
        },
    ),
    35: Behaviour(
        "a thousand large calls at once share one connection",
        {"rpc/test_isolation.py": ("test_a_thousand_parallel_large_unary_calls_on_one_connection_all_succeed",)},
    ),
    36: Behaviour(
        "both ends prove their keys, and a handler knows its caller's",
        {
            "rpc/test_behaviours_identity.py": (
                "test_each_handler_sees_the_id_of_its_own_caller_whoever_else_calls",
                "test_a_client_that_comes_back_with_another_key_is_another_caller",
                "test_a_server_with_another_key_than_was_expected_hears_no_call",
                "test_a_client_that_proves_no_key_of_its_own_is_refused_and_no_handler_runs_for_it",
                "test_a_server_that_does_not_prove_the_key_of_its_address_is_an_identity_error_at_once",
            ),
            "rpc/test_bad_input.py": ("test_a_peer_with_another_key_than_the_addresss_is_an_identity_error_at_once",),
        },
    ),
    37: Behaviour(
        "a server that drains lets its calls end, takes no others, and is gone on time",
        {
            "laws/test_law_14_drain.py": (
                "test_leaving_a_server_lets_calls_end_within_the_grace_and_cancels_the_rest",
                "test_each_call_of_a_server_that_is_left_ends_as_its_handler_did",
                "test_cancellation_from_outside_skips_the_grace",
            ),
            "rpc/test_endings.py": ("test_drain_lets_calls_in_flight_finish_and_refuses_new_ones",),
        },
    ),
    38: Behaviour(
        "a lost connection fails each call that it carried once, and the client connects again",
        {
            "rpc/test_one_outcome.py": ("test_the_loss_of_the_connection_fails_the_calls_that_it_carried_and_no_others",),
            "rpc/test_reconnect.py": ("test_a_stub_goes_on_after_its_server_was_restarted", "test_a_connection_that_was_lost_is_replaced"),
            "laws/test_law_12_loss.py": ("test_a_connection_that_is_closed_fails_each_of_its_calls_once",),
        },
    ),
    39: Behaviour(
        "a hundred thousand calls leave as little behind as one",
        {
            "soak/test_soak.py": ("test_calls_leave_nothing_behind_however_many_and_however_they_fail",),
            "rpc/test_kept_contexts.py": ("test_a_context_that_outlives_its_call_keeps_neither_the_call_nor_its_connection",),
        },
    ),
    40: Behaviour(
        "the two backends do the same: the tests of this map have one body for both",
        {
            "rpc/test_patterns.py": ("test_messages_of_any_sizes_arrive_in_order_and_once",),
            "rpc/test_isolation.py": ("test_a_failing_call_leaves_its_neighbours_alone",),
        },
    ),
    41: Behaviour(
        "a generator is closed when its call ends, not when the collector comes by",
        {"rpc/test_cancellation.py": ("test_an_async_generator_handler_is_closed_at_once_in_its_own_task_when_its_call_ends",)},
    ),
    42: Behaviour(
        "what a handler gives that cannot be sent is its bug, and the log says whose and what",
        {
            "rpc/test_behaviours_unsendable.py": (
                "test_a_response_that_cannot_be_sent_fails_its_call_at_its_place_and_the_log_names_method_and_type",
                "test_metadata_or_a_trailer_that_cannot_be_sent_is_internal_and_the_log_names_the_method_and_what_is_wrong",
            ),
            "rpc/test_requests.py": ("test_a_response_of_the_wrong_type_is_internal_and_the_log_names_method_and_type",),
        },
    ),
    43: Behaviour(
        "what is no request is refused before anything of it is sent, and the field is named",
        {"rpc/test_requests.py": ("test_a_request_of_the_wrong_type_never_leaves_the_client",)},
    ),
    44: Behaviour(
        "the hook of a session runs exactly once for every session that was ever opened, whatever ended it",
        {
            "rpc/test_thousand_sessions.py": ("test_a_thousand_sessions_that_end_in_all_ways_are_closed_once_each",),
            "rpc/test_session_endings.py": (
                "test_a_block_that_was_left_has_seen_the_hook_run",
                "test_a_background_task_that_fails_ends_the_session",
                "test_a_drain_ends_idle_sessions_at_once_and_busy_ones_after_their_call",
                "test_a_hook_that_raises_is_logged_and_changes_nothing_else",
                "test_the_loss_of_the_connection_closes_the_instance_and_fails_the_calls",
                "test_a_session_that_is_cancelled_at_any_step_leaves_nothing_behind",
            ),
        },
    ),
}

_LATER: dict[int, str] = {}
"""Behaviours that are not claimed, or not whole."""

_NO_IO = "no task and no transport takes part"
_CERTIFICATES = "memory has no certificates: its identities are handed over"

_LESS: dict[str, str] = {
    "test_any_metadata_arrives_as_it_was_given": "a property over memory; those beside it take rich metadata over QUIC",
    "test_an_oversized_message_is_refused_at_the_chunk_that_crosses_the_limit": _NO_IO,
    "test_a_message_that_would_swell_is_a_decode_error": _NO_IO,
    "test_a_flood_of_equal_hashes_is_a_decode_error": _NO_IO,
    "test_nesting_beyond_the_limit_is_a_decode_error": _NO_IO,
    "test_a_client_that_proves_no_key_of_its_own_is_refused_and_no_handler_runs_for_it": _CERTIFICATES,
    "test_a_server_that_does_not_prove_the_key_of_its_address_is_an_identity_error_at_once": _CERTIFICATES,
}
"""Tests that do not run everywhere, and why that is enough."""


@cache
def _collected() -> Mapping[tuple[str, str], frozenset[tuple[str, str]]]:
    """On which backends and transports each test runs, by file and name; a process of its own collects them, whatever part of the suite this run is."""
    files = sorted({str(_TESTS / file) for behaviour in _BEHAVIOURS.values() for file in behaviour.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=_TESTS.parent, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs: dict[tuple[str, str], frozenset[tuple[str, str]]] = {}
    for file, name, parameters in re.findall(r"^tests/(\S+?)::(test_\w+)(?:\[(.*)\])?$", done.stdout, re.MULTILINE):
        here = {(backend, transport) for backend, transport in _EVERYWHERE if backend in parameters and transport in parameters.lower()}
        runs[file, name] = runs.get((file, name), frozenset()) | here
    return runs


def test_every_behaviour_is_in_the_map_once_or_said_to_come_later() -> None:
    assert sorted([*_BEHAVIOURS, *_LATER]) == list(range(1, _LAST + 1))


@pytest.mark.timeout(300)  # the first waits for a process that imports most tests: 5 s on a free core, 45 s were seen on a busy machine
@pytest.mark.parametrize("number", _BEHAVIOURS)
def test_what_proves_a_behaviour_is_there_and_runs_on_both_backends_and_transports(number: int) -> None:
    for file, names in _BEHAVIOURS[number].tests.items():
        for name in names:
            assert (file, name) in _collected(), f"there is no {name} in tests/{file}"
            everywhere = _collected()[file, name] == _EVERYWHERE
            assert everywhere is not (name in _LESS), (
                f"{name} runs {'everywhere: take its reason out' if everywhere else 'less than everywhere: give a reason'}"
            )


def test_every_reason_is_that_of_a_test_in_the_map() -> None:
    assert set(_LESS) <= {name for behaviour in _BEHAVIOURS.values() for names in behaviour.tests.values() for name in names}
