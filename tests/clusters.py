"""A saved cascade for tests of clusters: its answers do not depend on the batch, and every stage answers."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager

import numpy as np

from cascadebert import Cascade, OperatingPoint, Target, assemble
from cascadebert.thresholds.confidence import Score, scale_logits, softmax
from samples import reviews, write_csv


@contextmanager
def two_nodes():
    """A Ray cluster of two nodes with one processor each, and this process connected to them."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    size = {"num_cpus": 1, "object_store_memory": 200_000_000}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    made.add_node(**size)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def median_thresholds(cascade, texts, score=None):
    """Thresholds at which half of the texts that reach a stage exit there."""
    outputs = zip(cascade.stage_logits(texts), cascade.temperatures, strict=True)
    probabilities, score = [softmax(scale_logits(*output)) for output in outputs], score or Score()
    thresholds, reached = [], np.ones(len(texts), np.bool_)
    for stage in range(1, len(cascade.stages)):
        confidences = score.confidence(probabilities[:stage])
        thresholds.append(float(np.median(confidences[reached])))
        reached &= confidences <= thresholds[-1]
    return tuple(thresholds)


def save_cascade(make_model, root, texts, *, layers=(1, 3)):
    """The folder of a cascade of random stages, in `root`."""
    write_csv(root / "data.csv", *reviews(160, seed=5))
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in layers]
    options = {"engine": "openvino", "precision": "float32"}
    made = assemble(
        stages, data=root / "data.csv", target=Target(speedup=1.5), output=root / "made", **options
    )
    point = OperatingPoint(median_thresholds(made, texts))
    made.with_operating_point(point).save_pretrained(root / "cascade")
    assert len(set(Cascade.from_pretrained(root / "cascade").predict(texts).stages)) == len(layers)
    return root / "cascade"
