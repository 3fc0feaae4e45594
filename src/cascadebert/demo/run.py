"""The demo: a classifier trained from scratch on a generated task, made faster by `build`."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import WORK_MARKER, work_directory, work_directory_path
from cascadebert.data.dataset import Examples
from cascadebert.data.table import Table
from cascadebert.data.writers import write_table
from cascadebert.demo.task import LABELS, DemoExample, generate, vocabulary
from cascadebert.errors import CascadeError, extra
from cascadebert.evaluation.evaluate import evaluate
from cascadebert.evaluation.templates import percent
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.torch import quiet_transformers
from cascadebert.persistence.folder import ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.timing import now
from cascadebert.training.cascade_builder.build import build
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, train_stage

with extra("train"):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
ENCODER = {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 2, "intermediate_size": 384}
TRAIN_SIZE, TRAFFIC_SIZE, TEST_SIZE = 12_000, 6_000, 4_000
# bfloat16 is slower at this size
CONFIG = FitConfig(epochs=3, batch_size=32, learning_rate=4e-4, warmup_ratio=0.1, max_length=64, bf16=False)
MIN_AGREEMENT, MINUTES = 0.98, 1.0
ENGINE = "torch"  # on a faster engine, tiny models mostly tokenize (benchmarks/LOG.md)
CLASSIFIER, TRAFFIC, CASCADE = "classifier", "traffic.csv", "fast"  # in the output folder


@dataclass(frozen=True)
class DemoResult:
    """Metrics on examples that were not used for training or tuning."""

    classifier_accuracy: float
    cascade_accuracy: float
    agreement: float  # of the cascade with the classifier
    measured_speedup: float  # over the classifier
    stages: tuple[str, ...]
    exit_rates: tuple[float, ...]
    certificate: str | None
    training_seconds: float  # of the classifier
    seconds: float
    output: str

    @property
    def build_command(self) -> str:
        """The command that does what the demo did with the classifier."""
        model, data, output = (self._path(name) for name in (CLASSIFIER, TRAFFIC, CASCADE))
        return (
            f"cascadebert build {model} --data {data} --min-agreement {MIN_AGREEMENT:g} "
            f"--minutes {MINUTES:g} --engine {ENGINE} --output {output}"
        )

    @property
    def description(self) -> str:
        """The result in sentences, and the next commands."""
        stages = ", ".join(
            f"{name} ({percent(rate)} of the texts)"
            for name, rate in zip(self.stages, self.exit_rates, strict=True)
        )
        certificate = "not certified" if self.certificate is None else f"certified: {self.certificate}"
        return (
            "The task is generated: sentences about films, two thirds plain, the others with negations, "
            "contrasts and asides.\n"
            f"classifier    accuracy {percent(self.classifier_accuracy)}, trained from scratch in "
            f"{self.training_seconds:.0f} seconds\n"
            f"cascade       accuracy {percent(self.cascade_accuracy)}, {self.measured_speedup:.1f}x as fast, "
            f"with the same prediction for {percent(self.agreement)} of the texts; {certificate}\n"
            f"stages        {stages}\n"
            f"Finished in {self.seconds:.0f} seconds. The report is {self._path(CASCADE)}/report.html. "
            "The cascade was made by\n"
            f"  {self.build_command}\n"
            "and predicts with\n"
            f"  cascadebert predict {self._path(CASCADE)} {self._path(TRAFFIC)} --output predictions.csv\n"
            "For your own classifier, with texts like those to come (labels are not needed):\n"
            f"  cascadebert build YOUR-CLASSIFIER --data YOUR-TEXTS.csv --min-agreement {MIN_AGREEMENT:g} "
            "--output fast"
        )

    def _path(self, name: str) -> str:
        return shlex.quote(str(Path(self.output) / name))


def demo(output: Path, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Train a classifier, make a cascade of it with `build`, and measure both on other examples.

    `output` holds the classifier, the unlabeled texts that were given to `build`, and the cascade. Raises
    CascadeError if no cascade pays on this machine.
    """
    start = now()
    _create(output, overwrite=overwrite)
    generated = generate(TRAIN_SIZE + TRAFFIC_SIZE + TEST_SIZE, seed=seed)
    train, traffic = generated[:TRAIN_SIZE], generated[TRAIN_SIZE:-TEST_SIZE]
    test = generated[-TEST_SIZE:]
    _train_classifier(train, output / CLASSIFIER, seed=seed)
    training_seconds = now() - start
    table = Table({"text": [example.text for example in traffic]}, source="demo")
    write_table(table, output / TRAFFIC)
    made = build(
        output / CLASSIFIER,
        data=output / TRAFFIC,
        output=output / CASCADE,
        target=Target(min_agreement=MIN_AGREEMENT),
        minutes=MINUTES,
        engine=ENGINE,
    )
    if not made.cascades or made.chosen is None or made.report is None or made.certification is None:
        raise CascadeError(f"no cascade pays on this machine, see {made.output}: {' '.join(made.reasons)}")
    labels = tuple(example.label for example in test)
    examples = Examples([example.text for example in test], labels, source="demo test")
    report = evaluate(Cascade.from_pretrained(output / CASCADE), examples)
    return DemoResult(
        classifier_accuracy=report.stages[-1].accuracy,
        cascade_accuracy=report.accuracy,
        agreement=made.report.agreement.value,
        measured_speedup=made.report.timing.measured_speedup,
        stages=made.chosen.stages,
        exit_rates=report.exit_rates,
        certificate=made.certification.guarantee,
        training_seconds=round(training_seconds, 1),
        seconds=round(now() - start, 1),
        output=str(output),
    )


def _create(output: Path, *, overwrite: bool) -> None:
    """Create the output folder, or empty the one of an earlier demo."""
    work = work_directory_path(output / CASCADE)
    ours = (work / WORK_MARKER).is_file() and not output.is_symlink()
    names = {CLASSIFIER, TRAFFIC, CASCADE, work.name}
    if not (overwrite and ours and names.issuperset(entry.name for entry in output.iterdir())):
        ensure_writable_directory(output, overwrite=overwrite)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir()
    work_directory(output / CASCADE)  # tells from now on that the folder is a demo's


def _train_classifier(examples: Sequence[DemoExample], output: Path, *, seed: int) -> None:
    """Train a classifier from random weights, as a user would have one."""
    ids = np.array([LABELS.index(example.label) for example in examples])
    data = TrainingData([example.text for example in examples], ids, LABELS)
    with tempfile.TemporaryDirectory() as temporary:
        source = random_encoder(Path(temporary) / "encoder", ENCODER, vocabulary(), seed=seed)
        trained = train_stage(source, data, CONFIG, work=Path(temporary), description="classifier")
        shutil.copytree(trained, output)


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
