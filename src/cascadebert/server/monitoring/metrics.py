"""Prometheus metrics: request counters, and the state of dispatcher and monitor when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascadebert.inference.cascade import Cascade
from cascadebert.server.monitoring.monitor import MonitorState
from cascadebert.server.types import DispatcherState, RequestResult

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily
Table = tuple[tuple[type[CounterMetricFamily] | type[GaugeMetricFamily], str, str, str], ...]
# Tables of: kind, name, description, attribute that holds the value.
DISPATCHER: Table = (
    (GAUGE, "ready", "1 while requests are accepted.", "ready"),
    (GAUGE, "operating_point", "Operating point in use; 0 is the most conservative.", "operating_point"),
    (COUNTER, "operating_point_changes", "Number of changes of the operating point.", "switches"),
    (GAUGE, "estimated_queue_delay_seconds", "Estimated queueing delay of a new request.", "estimated_delay"),
    (GAUGE, "admission_delay_limit_seconds", "Highest estimated delay admitted.", "admission_delay_limit"),
    (GAUGE, "inflight_texts", "Number of texts accepted and not completed.", "inflight_texts"),
    (COUNTER, "cached_texts", "Number of texts answered with a remembered prediction.", "cached_texts"),
    (GAUGE, "shadow_queue_size", "Number of texts that wait for shadow evaluation.", "shadow_backlog"),
)
STAGE: Table = (
    (COUNTER, "exits", "Number of texts that exited at a stage.", "exits"),
    (GAUGE, "queue_size", "Number of texts in the queue of a stage.", "queue_size"),
    (GAUGE, "queue_oldest_age_seconds", "Age of the oldest text in the queue of a stage.", "oldest_age"),
    (GAUGE, "stage_up", "1 while a stage is available.", "up"),
)
GUARANTEE: Table = (
    (GAUGE, "certified_level", "Level guaranteed at every operating point.", "guarantee.level"),
    (GAUGE, "certified_risk_bound", "Bound from the test at the saved operating point.", "bound"),
)
MONITOR: Table = ((GAUGE, "shadow_rate", "Fraction of texts sampled for shadow evaluation.", "shadow_rate"),)
POINT: Table = (
    (COUNTER, "shadow_evaluations", "Number of texts evaluated by the last stage.", "shadow_evaluations"),
    (GAUGE, "agreement", "Fraction of evaluated texts with the last stage's prediction.", "agreement"),
    (GAUGE, "agreement_ci_lower", "Lower end of the confidence sequence of the agreement.", "ci_lower"),
    (GAUGE, "agreement_ci_upper", "Upper end of the confidence sequence of the agreement.", "ci_upper"),
)
ALARM: Table = ((COUNTER, "alarms", "Number of quality alarms.", "count"),)


class Metrics(Collector):
    """Counts requests, and reads the state of the dispatcher and of the monitor, if there is one.

    Requests of other `paths` share one label. With `replica`, every sample has it as a label.
    """

    def __init__(
        self,
        cascade: Cascade,
        dispatcher_state: Callable[[], DispatcherState],
        monitor_state: Callable[[], MonitorState] | None,
        paths: Collection[str],
        replica: str | None = None,
    ) -> None:
        self._paths, self._replica = paths, replica
        self._dispatcher_state, self._monitor_state = dispatcher_state, monitor_state
        certificate = cascade.operating_point.certificate if cascade.uncertified_reason is None else None
        self._guarantees = () if certificate is None else certificate.guarantees
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "cascadebert", "registry": self._registry}
        counter: Callable[..., Counter] = partial(Counter, **options)
        self._requests = counter("requests", "Number of requests.", ["path", "status"])
        duration = "Time from the head of a request to its response."
        self._duration = Histogram("request_duration_seconds", duration, ["path"], buckets=BUCKETS, **options)
        self._texts = counter("texts", "Number of texts with a prediction.")
        self._truncated = counter("truncated_texts", "Number of texts cut to the maximum length of a stage.")
        self._degraded = counter("degraded_texts", "Number of texts predicted without a required stage.")
        self._uncertified = counter("uncertified_requests", "Number of requests outside the certificate.")
        self._expired = counter("deadline_exceeded", "Number of requests past their deadline.")
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = path if path in self._paths else "other"
        self._requests.labels(known, status).inc()
        self._duration.labels(known).observe(seconds)
        if status == 504:
            self._expired.inc()

    def count_result(self, result: RequestResult) -> None:
        """Count the texts of a result."""
        self._texts.inc(len(result.rows))
        self._truncated.inc(sum(row.truncated for row in result.rows))
        self._degraded.inc(sum(row.degraded for row in result.rows))
        self._uncertified.inc(result.uncertified_reason is not None)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        registry = self._registry
        if self._replica is not None:
            registry = _Labeled(registry, {"replica": self._replica})
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Metrics of the dispatcher, the certificate and the monitor; called by the registry."""
        state, guarantee = self._dispatcher_state(), {"guarantee": "guarantee.description"}
        stages = [SimpleNamespace(number=i, **asdict(stage)) for i, stage in enumerate(state.stages, start=1)]
        points = len(state.operating_points)
        yield GAUGE("cascadebert_operating_points", "Number of operating points.", points)
        yield from _families(DISPATCHER, {}, [state])
        yield from _families(STAGE, {"stage": "number"}, stages)
        yield from _families(GUARANTEE, guarantee, self._guarantees)
        if self._monitor_state is not None:
            monitor = self._monitor_state()
            yield from _families(MONITOR, {}, [monitor])
            yield from _families(POINT, {"operating_point": "index"}, monitor.operating_points)
            labels = {"kind": "kind", "operating_point": "operating_point"}
            yield from _families(ALARM, labels, monitor.alarms)


class _Labeled(CollectorRegistry):
    """The samples of a registry with more labels."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._inner, self._labels = registry, labels

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            samples = metric.samples
            metric.samples = [one._replace(labels={**one.labels, **self._labels}) for one in samples]
            yield metric


def _families(table: Table, labels: Mapping[str, str], items: Sequence[object]) -> Iterator[Metric]:
    # One family for each line of a table, with one sample for each item; `labels` map to attributes of items.
    for family, name, description, attribute in table:
        metric = family(f"cascadebert_{name}", description, labels=list(labels))
        for item in items:
            if (value := attrgetter(attribute)(item)) is not None:
                values = [attrgetter(label)(item) for label in labels.values()]
                metric.add_metric(["all" if v is None else str(v) for v in values], float(value))
        yield metric
