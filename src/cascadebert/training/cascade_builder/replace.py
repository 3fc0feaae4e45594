"""A saved cascade with another last stage: the stages before it stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascadebert.atomic import check_work_directory, work_directory, work_directory_path
from cascadebert.data.columns import Columns, named, or_remembered
from cascadebert.data.dataset import DataSource
from cascadebert.errors import CascadeError, explain_full_disk
from cascadebert.inference.cascade import tuned_engine
from cascadebert.paths import WORK, check_roles
from cascadebert.persistence.folder import ensure_writable_directory
from cascadebert.thresholds.operating_point import DEFAULT_TARGET, Target
from cascadebert.training.cascade_builder.build import BuildRequest, finish, opened, was_built
from cascadebert.training.cascade_builder.kept import KeptStages
from cascadebert.training.cascade_builder.result import BuildResult
from cascadebert.training.cascade_builder.search import search


@explain_full_disk()
def replace_last_stage(
    cascade: str | Path,
    model: str | Path,
    *,
    data: DataSource | Sequence[DataSource],
    output: str | Path | None = None,
    target: Target = DEFAULT_TARGET,
    confidence_level: float = 0.95,
    reteach: bool = False,
    corpus: DataSource | None = None,
    minutes: float = 60.0,
    columns: Columns | None = None,
    max_length: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> BuildResult:
    """Put another classifier of the same labels at the end of a saved cascade.

    All earlier stages stay. Score and thresholds are chosen anew by cross-validation, and the result is
    certified and measured as by `build`, all on texts that the cascade was not made from. Where it does not
    pay, only a report is written, and a cascade in the output stays. The same call goes on after an
    interruption.

    Args:
        cascade: The folder of a saved cascade; its last stage may be missing.
        model: The new classifier: a folder or a repository of the Hub.
        data: Texts like those to come; see `build`.
        output: The folder to write; by default that of the cascade.
        target: The requirement; accuracy targets need labels.
        confidence_level: Of the certificate, in [0.5, 1).
        reteach: Train the earlier stages on the new classifier's predictions, from their present weights.
        corpus: More texts to retrain them on.
        minutes: Time for all of it, on this machine; that of earlier calls for the same output counts.
        columns: Names of the columns; by default those that the cascade remembers, or the usual ones.
        max_length: Maximum tokens per text; by default that of the present last stage.
        engine: As for `build`; "auto" is the one that thresholds were selected on.
        precision: "float32", "bfloat16", "int8" or "auto".
        overwrite: Replace an existing output that is another folder than the cascade's.

    Returns:
        All that was found; `output` is where the cascade, or the report alone, was saved.

    Raises:
        CascadeError: If the cascade, the classifier, the texts or a limit cannot be used; the output is not
            changed.
    """
    cascade, output = Path(cascade), Path(cascade if output is None else output)
    if corpus is not None and not reteach:
        raise CascadeError("a corpus is only trained on: give --reteach too, or leave out --corpus")
    in_place = output.exists() and cascade.exists() and output.samefile(cascade)
    inputs = {"--model": model, "--data": data, "--corpus": corpus, "--from": None if in_place else cascade}
    check_roles({"--output": output, WORK: work_directory_path(output)}, inputs)
    check_work_directory(output)
    kept = KeptStages.read(cascade, retrain=reteach)
    folder = f"from-{kept.key}"
    continued = in_place or was_built(output, work_directory_path(output) / folder)
    ensure_writable_directory(output, overwrite=overwrite or continued)
    request = BuildRequest(
        model, data, target, minutes, confidence_level,
        corpus=corpus,
        columns=or_remembered(columns, kept.spec.columns),
        max_length=max_length or kept.spec.stages[-1].max_length,
        engine=(chosen := tuned_engine(kept.spec, engine, precision))[0],
        precision=chosen[1],
        kept=kept,
    )  # fmt: skip

    def work() -> Path:
        # one folder for each state of the cascade: certificates from the same texts share the allowed risk
        steps = work_directory(output) / folder
        steps.mkdir(exist_ok=True)
        return steps

    with opened(request, work) as job:
        return finish(job, search(job), confidence_level, named(columns) or kept.spec.columns, output)
