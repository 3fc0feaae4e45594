"""The demo: trains, calibrates, tunes, saves, loads and times a cascade on a generated task.

Both stages are BERT models that start from random weights, with a word-level tokenizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadebert.data.dataset import Examples
from cascadebert.demo.task import generate, vocabulary
from cascadebert.errors import extra
from cascadebert.evaluation.benchmark import benchmark
from cascadebert.evaluation.cost_model import counted_costs
from cascadebert.evaluation.evaluate import report_on_logits, scaled_probabilities
from cascadebert.evaluation.plots import plot_pareto_front
from cascadebert.evaluation.templates import percent
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.torch import quiet_transformers
from cascadebert.persistence.folder import ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import TuningArrays, pareto_front
from cascadebert.timing import now
from cascadebert.training.config import FitConfig
from cascadebert.training.fit import fit
from cascadebert.tuning.tune import CachedOutputs, cache_outputs
from cascadebert.types import Report

with extra("train"):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
SMALL = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 96}
LARGE = {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 2, "intermediate_size": 384}
TRAIN_SIZE, TEST_SIZE = 20_000, 4_000
PLOT = "curve.svg"
TARGET = Target(max_accuracy_drop=0.004)
# Both models are trained alike; bfloat16 is slower at these sizes.
CONFIG = FitConfig(epochs=3, batch_size=32, learning_rate=4e-4, warmup_ratio=0.1, max_length=64, bf16=False)
ENGINE = "torch"  # on a faster engine, tiny models mostly tokenize (benchmarks/LOG.md)


@dataclass(frozen=True)
class DemoResult:
    """Metrics on test examples that were not used for training or tuning."""

    small_accuracy: float
    large_accuracy: float
    cascade_accuracy: float
    measured_speedup: float
    flops_speedup: float
    exit_rates: tuple[float, ...]
    seconds: float
    output: str

    @property
    def description(self) -> str:
        """The result in sentences, and the next command."""
        return (
            "The task is generated: sentences about films, two thirds plain, the others with negations, "
            "contrasts and asides.\n"
            f"small model   {percent(self.small_accuracy)}\n"
            f"large model   {percent(self.large_accuracy)}\n"
            f"cascade       {percent(self.cascade_accuracy)}, {self.measured_speedup:.1f}x as fast as the "
            f"large model by wall-clock time ({self.flops_speedup:.1f}x by FLOPs); "
            f"{percent(self.exit_rates[0])} of the texts exit at the small model\n"
            f"Finished in {self.seconds:.0f} seconds. Saved in {self.output}, with a plot in {PLOT}.\n"
            f'Next: echo \'{{"text": "the plot was hardly dull ."}}\' > new.jsonl && '
            f"cascadebert predict {self.output} new.jsonl --output predictions.jsonl"
        )


def demo(output: Path, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Train a cascade of two transformers from scratch, save it and a plot in `output`, and measure it."""
    start = now()
    ensure_writable_directory(output, overwrite=overwrite)
    generated = generate(TRAIN_SIZE + TEST_SIZE, seed=seed)
    texts, labels = [example.text for example in generated], tuple(example.label for example in generated)
    train = Examples(texts[:TRAIN_SIZE], labels[:TRAIN_SIZE], source="demo")
    test = Examples(texts[TRAIN_SIZE:], labels[TRAIN_SIZE:], source="demo test")
    with tempfile.TemporaryDirectory() as folder:
        small = random_encoder(Path(folder) / "small", SMALL, vocabulary(), seed=seed)
        large = random_encoder(Path(folder) / "large", LARGE, vocabulary(), seed=seed + 1)
        stages = [small, large]
        fit(
            train,
            stages=stages,
            target=TARGET,
            output=output,
            engine=ENGINE,
            overwrite=overwrite,
            config=CONFIG,
        )
    cascade = Cascade.from_pretrained(output)
    cached = cache_outputs(cascade, test)
    assert cached.labels is not None
    report = report_on_logits(cascade, cached.logits, cached.encoded, cached.labels)
    timing = benchmark(cascade, test)
    _plot(cascade, cached, report, output / PLOT)
    assert report.flops_speedup is not None
    return DemoResult(
        small_accuracy=report.stages[0].accuracy,
        large_accuracy=report.stages[-1].accuracy,
        cascade_accuracy=report.accuracy,
        measured_speedup=timing.measured_speedup,
        flops_speedup=report.flops_speedup,
        exit_rates=report.exit_rates,
        seconds=round(now() - start, 1),
        output=str(output),
    )


def _plot(cascade: Cascade, cached: CachedOutputs, report: Report, path: Path) -> None:
    probabilities = scaled_probabilities(cascade, cached.logits)
    losses = (probabilities.argmax(axis=2) != cached.labels).astype(float)
    costs = counted_costs(cascade.stages, cached.encoded, "flops").rows
    front = pareto_front(TuningArrays(cascade.score.all_stages(probabilities), losses, costs))
    stages = {
        name: (float(costs[-1].sum() / costs[i].sum()), report.stages[i].accuracy)
        for i, name in ((0, "small alone"), (-1, "large alone"))
    }
    plot_pareto_front(
        path,
        front,
        stages,
        (float(report.flops_speedup or 0), report.accuracy),
        title="A cascade of two transformers on the generated demo task",
        axis="speed-up over the large model, by FLOPs",
    )


def random_encoder(path: Path, size: Mapping[str, Any], words: Sequence[str], *, seed: int) -> Path:
    """Save an untrained encoder and its tokenizer of `words` in a folder, and return the folder."""
    vocabulary = [*SPECIAL.values(), *words]
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        **size,
    )
    with quiet_transformers():
        BertModel(config).save_pretrained(path)
        _tokenizer(vocabulary).save_pretrained(path)
    return path


def _tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = SPECIAL["cls_token"], SPECIAL["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
