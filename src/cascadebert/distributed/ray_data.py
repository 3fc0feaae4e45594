"""Scoring on Ray Data: rows stream through one pool of actors for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascadebert.data.columns import Columns, find_text_columns, or_remembered
from cascadebert.distributed.pools import StagePool, costs_of, reached_shares, stage_pools
from cascadebert.distributed.stage_worker import StageWorker
from cascadebert.errors import CascadeError, DataError, extra
from cascadebert.inference.cascade import check_texts_per_row
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import read_folder
from cascadebert.persistence.schema import CascadeSpec

with extra("ray"):
    import ray
    from ray.data import ActorPoolStrategy, Dataset

DATASET = "the dataset"  # in messages


def predict_dataset(
    dataset: Dataset,
    folder: str | Path,
    *,
    columns: Columns | None = None,
    pools: Sequence[StagePool] | None = None,
    keep_order: bool = False,
    engine: str = "auto",
    precision: str = "auto",
) -> Dataset:
    """Predict the rows of a Ray dataset with a saved cascade, lazily, as all its transformations.

    Args:
        dataset: rows with a column of texts (or two), and others, which are kept.
        folder: a saved cascade at a path that every node has, or a repository of the Hugging Face Hub.
        columns: names of the text columns, by default as in `predict`.
        pools: the actors of each stage, by default `plan_pools`.
        keep_order: give the rows in their order. Otherwise a column must tell which row is which.
        engine: as in `Cascade.from_pretrained`.
        precision: as in `Cascade.from_pretrained`.

    Returns:
        The rows without their texts, in place of which they have `label`, `confidence` and `stage` as in
        `predict`, `truncated`, and `reason`: why a row cannot be classified, whose other answers are null.

    Raises:
        DataError: if there is no text column, or nothing would tell which row is which.
        CascadeError: if no node has room for an actor, or the cluster not for all of them.
    """
    spec, texts = check_dataset(dataset, folder, columns)
    if not keep_order and set(dataset.columns() or []) <= set(texts):
        raise DataError(
            f"{DATASET} has texts only, and they are not kept: nothing would tell which row is which. Add a "
            "column of ids, or use keep_order."
        )
    pools = check_pools(spec, pools)
    return through_stages(dataset, pools, str(folder), texts, engine, precision, keep_order=keep_order)


def check_dataset(
    dataset: Dataset, folder: str | Path, columns: Columns | None
) -> tuple[CascadeSpec, tuple[str, ...]]:
    """The cascade of a folder, and the text columns of a dataset. Raises DataError if it has not as many."""
    spec = read_folder(resolve_checkpoint(folder))
    texts = find_text_columns(dataset.columns() or [], or_remembered(columns, spec.columns), DATASET)
    check_texts_per_row(spec, len(texts))
    return spec, tuple(texts)


def check_pools(
    spec: CascadeSpec, pools: Sequence[StagePool] | None, *, others: int = 0
) -> tuple[StagePool, ...]:
    """The pools, or planned ones. Raises CascadeError if there are not as many as stages."""
    pools = plan_pools(spec, others=others) if pools is None else tuple(pools)
    if len(pools) != len(spec.stages):
        raise CascadeError(f"{len(spec.stages)} stages need as many pools; given: {len(pools)}")
    return pools


def through_stages(
    dataset: Dataset,
    pools: Sequence[StagePool],
    folder: str,
    texts: Sequence[str],
    engine: str,
    precision: str,
    *,
    first: int = 0,
    keep_order: bool = False,
) -> Dataset:
    """The rows after the stages from `first` on that have pools, as in `predict_dataset`.

    Raises CascadeError if the cluster has no room for the actors.
    """
    check_room(pools)
    dataset.context.execution_options.preserve_order |= keep_order
    for number, pool in enumerate(pools, start=first):
        dataset = dataset.map_batches(
            StageWorker,
            fn_constructor_args=(folder, number, tuple(texts), engine, precision),
            batch_format="pyarrow",
            batch_size=pool.rows,
            compute=ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            udf_modifying_row_count=False,
        )
    return dataset


def plan_pools(spec: CascadeSpec, *, others: int = 0) -> tuple[StagePool, ...]:
    """Pools for the connected cluster, by costs and exit rates; the last stage is on its GPUs, if any.

    `others` processors are left to actors that are not of a stage.
    """
    total = ray.cluster_resources()
    reached = reached_shares(spec.operating_point.deferral_rates)
    cpus = total.get("CPU", 0) - others
    return stage_pools(costs_of(spec), reached, cpus=cpus, gpus=total.get("GPU", 0))


def check_room(pools: Sequence[StagePool]) -> None:
    """Check that the connected cluster has room for all actors, for which Ray would wait without an end.

    Raises:
        CascadeError: if it has not.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for number, pool in enumerate(pools, start=1):
        wanted = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
        if not any(all(node.get(kind, 0) >= count for kind, count in wanted.items()) for node in nodes):
            shown = " and ".join(f"{count:g} {kind}" for kind, count in wanted.items() if count)
            raise CascadeError(f"no node of the cluster has {shown}, which an actor of stage {number} needs")
    for kind in ("CPU", "GPU"):
        needed = sum(pool.actors * (pool.num_cpus if kind == "CPU" else pool.num_gpus) for pool in pools)
        found = sum(node.get(kind, 0) for node in nodes)
        if needed > found:
            raise CascadeError(f"all actors need {needed:g} {kind}, and the cluster has {found:g}")
