"""Cycles and feedback of a graph."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.graph import Edge, feedback, find_cycles

EDGES = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), max_size=12)


def test_a_cycle_is_named_from_end_to_end() -> None:
    assert find_cycles([("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]) == [["b", "c", "b"]]
    assert find_cycles([("a", "a")]) == [["a", "a"]]
    assert find_cycles([("a", "b"), ("a", "b"), ("b", "c")]) == []


@settings(max_examples=200, deadline=None)
@given(EDGES)
def test_every_cycle_is_a_real_one_and_cutting_them_leaves_none(edges: list[Edge]) -> None:
    cycles = find_cycles(edges)
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert all(edge in edges for edge in pairwise(cycle))
    cut = {(cycle[-2], cycle[-1]) for cycle in cycles}
    assert find_cycles([edge for edge in edges if edge not in cut]) == []


@settings(max_examples=200, deadline=None)
@given(EDGES, st.randoms(use_true_random=False))
def test_without_feedback_no_cycle_is_left_and_nothing_is_cut_needlessly(
    edges: list[Edge], random: object
) -> None:
    is_firm = [random.random() < 0.5 for _ in edges]  # type: ignore[attr-defined]
    firm = [edge for edge, is_it in zip(edges, is_firm, strict=True) if is_it]
    cut = {(cycle[-2], cycle[-1]) for cycle in find_cycles(firm)}
    is_firm = [is_it and edge not in cut for edge, is_it in zip(edges, is_firm, strict=True)]
    closes = feedback(edges, is_firm)
    kept = [edge for edge, is_it in zip(edges, closes, strict=True) if not is_it]
    assert find_cycles(kept) == []
    for edge, is_it, firmly in zip(edges, closes, is_firm, strict=True):
        assert not (is_it and firmly)
        if is_it:
            assert find_cycles([*kept, edge])


def test_feedback_is_what_was_written_last_unless_the_others_block() -> None:
    edges = [("a", "b"), ("b", "a")]
    assert feedback(edges, [False, False]) == [False, True]
    assert feedback(edges, [False, True]) == [True, False]
    assert feedback(edges, [True, False]) == [False, True]
    assert feedback([("a", "a")], [False]) == [True]
