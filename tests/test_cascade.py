"""The routing loop equals "run everything, then choose", whatever the batches and the order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas
import pytest

from cascadebert import Cascade
from cascadebert.errors import CascadeError, DataError
from cascadebert.thresholds.confidence import scale_logits, softmax
from cascadebert.thresholds.operating_point import OperatingPoint
from samples import sentences


def naive(cascade, texts):
    """Every stage on every row alone; then, row by row, the first stage that is sure."""
    labels, probabilities, stages = [], [], []
    for text in texts:
        for number, stage in enumerate(cascade.stages, start=1):
            logits = stage.logits(stage.encode([text]))
            answer = softmax(scale_logits(logits, cascade.temperatures[number - 1]))[0]
            last = number == len(cascade.stages)
            if last or answer.max() > cascade.operating_point.thresholds[number - 1]:
                labels.append(int(answer.argmax()))
                probabilities.append(answer)
                stages.append(number)
                break
    return np.array(labels), np.array(probabilities), np.array(stages)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_tokens", [8, 100, 4096])
def test_routing_equals_running_everything_and_then_choosing(make_cascade, count, batch_tokens):
    cascade = make_cascade(count)
    small = tuple(dataclasses.replace(stage, batch_tokens=batch_tokens) for stage in cascade.stages)
    texts = sentences(80, seed=count)
    labels, probabilities, stages = naive(cascade, texts)
    answers = dataclasses.replace(cascade, stages=small).predict(texts)
    assert set(stages) == set(range(1, count + 1))
    assert answers.stages.tolist() == stages.tolist()
    assert answers.label_ids.tolist() == labels.tolist()
    assert answers.probabilities == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_permuting_the_inputs_permutes_the_answers(make_cascade, count):
    cascade = make_cascade(count)
    texts = sentences(60, seed=7)
    order = np.random.default_rng(0).permutation(60)
    straight, shuffled = cascade.predict(texts), cascade.predict([texts[i] for i in order])
    assert shuffled.stages.tolist() == straight.stages[order].tolist()
    assert shuffled.labels.tolist() == straight.labels[order].tolist()
    assert shuffled.probabilities == pytest.approx(straight.probabilities[order], abs=1e-6)


def test_a_row_gets_the_same_answer_whatever_its_neighbors(make_cascade):
    cascade, texts = make_cascade(3), sentences(40, seed=9)
    together = cascade.predict(texts)
    alone = [cascade.predict([text]) for text in texts]
    assert [one.labels[0] for one in alone] == list(together.labels)
    assert [one.stages[0] for one in alone] == list(together.stages)


def test_a_threshold_below_the_minimum_means_the_first_stage_only(make_cascade):
    cascade = make_cascade(3, thresholds=(0.0, 0.0))
    texts = sentences(20, seed=1)
    answers = cascade.predict(texts)
    assert set(answers.stages) == {1}
    assert answers.label_ids.tolist() == cascade.stages[0].predict(texts).label_ids.tolist()


def test_a_threshold_of_one_means_the_last_stage_only(make_cascade):
    cascade = make_cascade(3, thresholds=(1.0, 1.0))
    texts = sentences(20, seed=1)
    answers = cascade.predict(texts)
    assert set(answers.stages) == {3}
    assert answers.label_ids.tolist() == cascade.stages[2].predict(texts).label_ids.tolist()


class Counting:
    """A real engine, and how many rows it was asked for."""

    def __init__(self, engine):
        self.engine, self.name, self.precision, self.rows = engine, engine.name, engine.precision, 0
        self.streams = engine.streams

    def logits(self, batch):
        self.rows += len(batch.input_ids)
        return self.engine.logits(batch)


def test_a_stage_runs_on_the_rows_passed_on_and_on_no_other(make_cascade):
    cascade = make_cascade(3)
    counted = tuple(dataclasses.replace(s, engine=Counting(s.engine)) for s in cascade.stages)
    answers = dataclasses.replace(cascade, stages=counted).predict(sentences(100, seed=2))
    reached = [int((answers.stages >= number).sum()) for number in (1, 2, 3)]
    assert [stage.engine.rows for stage in counted] == reached
    assert reached[0] == 100 > reached[2]


def test_a_later_stage_is_not_called_when_nothing_is_passed_on(make_cascade):
    cascade = make_cascade(2, thresholds=(0.0,))
    counted = tuple(dataclasses.replace(s, engine=Counting(s.engine)) for s in cascade.stages)
    dataclasses.replace(cascade, stages=counted).predict(sentences(30, seed=2))
    assert counted[1].engine.rows == 0


def test_an_empty_list_gives_empty_answers(make_cascade):
    answers = make_cascade(2).predict([])
    assert len(answers) == 0 and answers.probabilities.shape == (0, 2)


def test_pairs_are_answered_by_both_texts(make_cascade):
    cascade = make_cascade(2)
    pairs = list(zip(sentences(40, seed=3), sentences(40, seed=4), strict=True))
    swapped = [(second, first) for first, second in pairs]
    both = cascade.predict_proba(pairs)
    assert both.sum(axis=1) == pytest.approx(np.ones(40))
    assert not np.allclose(both, cascade.predict_proba(swapped))


def test_labels_come_by_name(make_cascade):
    answers = make_cascade(2).predict(sentences(5, seed=1))
    assert answers.labels.tolist() == [answers.label_names[i] for i in answers.label_ids]


@pytest.mark.parametrize("ask", ["predict", "predict_proba", "stage_logits", "encode"])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a fine film", "expected a list of texts"),
        (["a fine film", None], r"texts\[1\]: expected a string, found NoneType"),
        (["a fine film", ("a", "b")], r"texts\[1\]: expected a string, found tuple"),
        (["a\ud800"], r"texts\[0\]: expected text, found half of a surrogate pair"),
        (pandas.DataFrame({"review": ["a"]}), "expected texts, got a table .*'review'"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_every_method(cascade, ask, texts, message):
    with pytest.raises(DataError, match=message):
        getattr(cascade, ask)(texts)
    if ask in ("predict", "encode"):
        with pytest.raises(DataError, match=message):
            getattr(cascade.stages[0], ask)(texts)


def test_columns_of_other_libraries_are_answered_as_lists_are(cascade):
    texts = sentences(6, seed=1)
    expected = cascade.predict(texts)
    for given in (pandas.Series(["x", *texts])[1:], np.array(texts), iter(texts)):
        assert cascade.predict(given).probabilities.tolist() == expected.probabilities.tolist()
    assert cascade.stages[0].predict(pandas.Series(["x", *texts])[1:]).labels.shape == (6,)


def test_texts_of_any_length_are_tokenized_a_part_at_a_time_with_the_same_tokens(cascade, monkeypatch):
    texts = [*sentences(20, seed=1), "a good film " * 20_000, "", *sentences(20, seed=2)]
    pairs = list(zip(texts, reversed(texts), strict=True))
    tokenizer = cascade.stages[0].tokenizer
    expected = [tokenizer.encode(texts), tokenizer.encode(pairs)]
    monkeypatch.setattr("cascadebert.inference.tokenizer.ENCODED_CHARACTERS", 50)
    for whole, parts in zip(expected, [tokenizer.encode(texts), tokenizer.encode(pairs)], strict=True):
        assert whole.ids.tolist() == parts.ids.tolist() and whole.starts.tolist() == parts.starts.tolist()
        assert whole.type_ids.tolist() == parts.type_ids.tolist()
        assert whole.truncated.tolist() == parts.truncated.tolist()
    assert np.flatnonzero(expected[0].truncated).tolist() == [20] and expected[1].type_ids.any()


def test_pairs_are_refused_by_a_cascade_of_single_texts(saved):
    with pytest.raises(CascadeError, match=r"made for single texts, got pairs"):
        Cascade.from_pretrained(saved).predict([("a fine film", "a dull one")])


def test_thresholds_must_fit_the_number_of_stages(make_cascade):
    with pytest.raises(CascadeError, match="one threshold less"):
        make_cascade(2).with_operating_point(OperatingPoint((0.5, 0.5)))


def test_a_tokenizer_of_its_own_only_sees_the_rows_passed_on(make_cascade):
    cascade, texts = make_cascade(3), sentences(100, seed=2)
    asked = []

    class Asked:
        def __init__(self, encoder, length):
            self.key, self._encoder = f"{encoder.key}-{length}", encoder

        def encode(self, some, places):
            asked.append(len(some))
            return self._encoder.encode(some, places)

    encoders = (1, 2, 2)  # the last two share one
    stages = tuple(
        dataclasses.replace(stage, tokenizer=Asked(stage.tokenizer, number))
        for stage, number in zip(cascade.stages, encoders, strict=True)
    )
    found = dataclasses.replace(cascade, stages=stages).predict(texts)
    assert found.stages.tolist() == cascade.predict(texts).stages.tolist()
    assert found.labels.tolist() == cascade.predict(texts).labels.tolist()
    assert asked == [100, int((found.stages > 1).sum())] and 0 < asked[1] < 100
