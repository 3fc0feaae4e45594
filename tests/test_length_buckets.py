"""Rows of which lengths share batches, and that answers do not depend on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascadebert.server.scheduling.length_buckets import LengthBuckets, find_length_buckets
from dispatching import TableEngine, start_dispatcher, with_exact_engines
from samples import sentences

GROUPS = LengthBuckets(((8, 16, 24, 32), (36, 40, 44)))


class PaddingEngine(TableEngine):
    """Its answers to rows of some length depend on padding."""

    def __init__(self, seed, length):
        super().__init__(seed)
        self.length = length

    def logits(self, batch):
        """As the table says, a little off for padded rows of that length."""
        said = super().logits(batch)
        real, computed = batch.attention_mask.sum(axis=1), batch.input_ids.shape[1]
        return said + np.where((real == self.length) & (real < computed), 1e-3, 0)[:, None].astype(np.float32)


def groups(make_cascade, engine):
    """That are found for a stage of up to 64 tokens."""
    stage = make_cascade(1).stages[0]
    stage.tokenizer.max_length = 64
    return find_length_buckets(replace(stage, engine=engine)).groups


def test_lengths_that_an_engine_answers_alike_are_mixed(make_cascade):
    found = groups(make_cascade, TableEngine(0))
    assert found == ((8, 16, 24, 32), (36, 40, 44), (48, 52, 56, 60))


@pytest.mark.parametrize(("length", "lost"), [(10, 0), (40, 1), (52, 2)])
def test_but_no_group_in_which_a_single_number_differs(make_cascade, length, lost):
    every = groups(make_cascade, TableEngine(0))
    found = groups(make_cascade, PaddingEngine(0, length))
    assert found == tuple(one for i, one in enumerate(every) if i != lost)


def test_short_rows_wait_at_multiples_of_eight_where_they_may():
    assert [GROUPS.bucket_for(one) for one in (2, 8, 10, 30, 36, 48)] == [8, 8, 16, 32, 36, 48]
    assert LengthBuckets().bucket_for(10) == 10


def test_the_next_lengths_join_until_a_batch_is_worth_it():
    assert GROUPS.mergeable(24, {24: 16, 16: 5}.get) == (24,)
    assert GROUPS.mergeable(24, {24: 3, 16: 15, 8: 5}.get) == (24, 16)
    assert set(GROUPS.mergeable(24, {24: 3, 16: 2, 8: 5, 36: 4}.get)) == {24, 16, 8}
    assert GROUPS.mergeable(48, {48: 1, 44: 5}.get) == (48,)


def test_rows_that_share_a_batch_are_answered_as_alone(make_cascade):
    cascade = with_exact_engines(make_cascade(2, thresholds=(0.8,)))
    texts = sentences(60, seed=3)
    dispatcher = start_dispatcher(cascade)
    try:
        rows = dispatcher.submit(texts).result(20).rows
    finally:
        dispatcher.drain(5)
    told = cascade.predict(texts)
    for place, row in enumerate(rows):
        assert np.array_equal(row.stage_results[-1].probabilities, told.probabilities[place])
