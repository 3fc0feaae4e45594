"""`cascadebert demo`: train, calibrate, pick a threshold, save, load and time, on a generated task."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascadebert.data.dataset import Examples
from cascadebert.demo.models import ModelSize, random_encoder
from cascadebert.demo.task import DemoRow, generate, vocabulary
from cascadebert.evaluation.benchmark import benchmark
from cascadebert.evaluation.cost_model import counted_costs
from cascadebert.evaluation.evaluate import report_on_logits, scaled_probabilities
from cascadebert.evaluation.plots import plot_pareto_front
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.folder import ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import pareto_front
from cascadebert.timing import now
from cascadebert.training.config import FitConfig
from cascadebert.training.fit import fit
from cascadebert.tuning.tune import CachedOutputs, cache_outputs
from cascadebert.types import Report

SMALL = ModelSize(layers=1, hidden=24, heads=2, intermediate=96)
LARGE = ModelSize(layers=3, hidden=192, heads=2, intermediate=384)
FIT_ROWS = 20_000
TEST_ROWS = 4_000
PICTURE = "curve.svg"
ALLOWED_DROP = 0.004

CONFIG = FitConfig(epochs=3, batch_size=32, learning_rate=4e-4, warmup_ratio=0.1, max_length=64, bf16=False)
"""Both models are trained alike; bfloat16 is slower at these sizes."""

ENGINE = "torch"
"""On a faster engine, models this small leave little to time but the tokenising (benchmarks/LOG.md)."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured on test rows that nothing was chosen on."""

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
        """The result for people."""
        return (
            "The task is generated: sentences about films, two thirds plain, the others with negations, "
            "contrasts and asides.\n"
            f"small model alone   {100 * self.small_accuracy:.1f} %\n"
            f"large model alone   {100 * self.large_accuracy:.1f} %\n"
            f"cascade             {100 * self.cascade_accuracy:.1f} %, {self.measured_speedup:.1f}x as fast "
            f"as the large model by the clock ({self.flops_speedup:.1f}x by FLOPs); "
            f"{100 * self.exit_rates[0]:.0f} % of the rows leave at the small model\n"
            f"{self.seconds:.0f} seconds in all. Saved in {self.output}; the picture is {PICTURE} there.\n"
            f'Next: echo \'{{"text": "the plot was hardly dull ."}}\' > new.jsonl && '
            f"cascadebert predict {self.output} new.jsonl --output answers.jsonl"
        )


def demo(output: Path, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Run the whole of the package once, on two small transformers trained from scratch.

    Args:
        output: the cascade folder to write; the picture goes into it.
        seed: of the sentences and of the weights.
        overwrite: replace an existing folder.
    """
    start = now()
    ensure_writable_directory(output, overwrite=overwrite)
    rows = generate(FIT_ROWS + TEST_ROWS, seed=seed)
    train, test = _examples(rows[:FIT_ROWS], "demo"), _examples(rows[FIT_ROWS:], "demo test")
    with tempfile.TemporaryDirectory() as folder:
        small = random_encoder(Path(folder) / "small", SMALL, vocabulary(), seed=seed)
        large = random_encoder(Path(folder) / "large", LARGE, vocabulary(), seed=seed + 1)
        fit(
            train,
            stages=[small, large],
            target=Target(max_accuracy_drop=ALLOWED_DROP),
            output=output,
            engine=ENGINE,
            overwrite=overwrite,
            config=CONFIG,
        )
    cascade = Cascade.from_pretrained(output)
    cached = cache_outputs(cascade, test)
    assert cached.labels is not None
    measured = report_on_logits(cascade, cached.logits, cached.encoded, cached.labels)
    clock = benchmark(cascade, test)
    _draw(cascade, cached, measured, output / PICTURE)
    assert measured.flops_speedup is not None
    return DemoResult(
        small_accuracy=measured.stages[0].accuracy,
        large_accuracy=measured.stages[-1].accuracy,
        cascade_accuracy=measured.accuracy,
        measured_speedup=clock.measured_speedup,
        flops_speedup=measured.flops_speedup,
        exit_rates=measured.exit_rates,
        seconds=round(now() - start, 1),
        output=str(output),
    )


def _examples(rows: Sequence[DemoRow], source: str) -> Examples:
    return Examples([row.text for row in rows], tuple(row.label for row in rows), source=source)


def _draw(cascade: Cascade, cached: CachedOutputs, measured: Report, path: Path) -> None:
    probabilities = scaled_probabilities(cascade, cached.logits)
    losses = (probabilities.argmax(axis=2) != cached.labels).astype(float)
    costs = counted_costs(cascade.stages, cached.encoded, "flops").rows
    curve = pareto_front(cascade.score.all_stages(probabilities), losses, costs)
    stages = {
        name: (float(costs[-1].sum() / costs[i].sum()), measured.stages[i].accuracy)
        for i, name in ((0, "small alone"), (-1, "large alone"))
    }
    plot_pareto_front(
        path,
        speedups=curve.speedups,
        accuracies=1 - curve.losses,
        stages=stages,
        selected=(float(measured.flops_speedup or 0), measured.accuracy),
        title="A cascade of two transformers on the generated demo task",
        axis="speed-up over the large model, by FLOPs",
    )
