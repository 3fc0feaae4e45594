"""Tokens that stand in for texts: models that read their answer at the end token run on them too."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from cascadebert.inference import batch_size
from cascadebert.inference.stage import Stage
from cascadebert.inference.trial import trial_texts
from cascadebert.server.scheduling.autotune import autotune, probe_batch
from cascadebert.server.scheduling.length_buckets import find_length_buckets


@pytest.fixture(scope="module", params=["bart", "mbart", "t5"])
def stage(request, make_model):
    """A classifier that reads its answer at the end token."""
    return Stage.from_pretrained(make_model(request.param, layers=1), engine="torch", max_length=16)


def test_models_with_an_end_token_are_probed_and_timed(stage, monkeypatch):
    monkeypatch.setattr(batch_size, "BUDGETS", (64,))
    trials = (probe_batch, batch_size._measure_best, find_length_buckets)
    trials += (lambda stage: autotune([stage], [True], latency_target=1e-3),)
    for trial in trials:
        trial(stage)
    assert stage.run(probe_batch(stage)).shape == (1, 2)


@pytest.mark.parametrize("length", [1, 2, 16])
def test_every_row_ends_as_texts_do_and_only_there(stage, length):
    make = partial(trial_texts, stage.tokenizer, 3, length)
    equal, random = (np.reshape(make(vary=vary).ids, (3, length)) for vary in (False, True))
    end = stage.encode(["good"]).ids[-1]
    assert (equal[:, -1] == end).all() and (random[:, -1] == end).all()
    assert (equal[:, :-1] != end).all() and (length < 16 or len(np.unique(random)) > 10)
