"""What `/metrics` tells, for Prometheus: answers counted here, and the state of pool and watch when asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cascadebert.inference.cascade import Cascade
from cascadebert.server.types import DispatcherState, RequestResult

if TYPE_CHECKING:
    from cascadebert.server.http.handlers import Pool
    from cascadebert.server.http.info import Watched
    from cascadebert.server.monitoring.state import MonitorState

PATHS = ("/", "/predict", "/v1/classify", "/health", "/ready", "/info", "/metrics", "/openapi.json")
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Counts answers, and writes everything in the text format of Prometheus.

    Args:
        pool: whose state is told.
        cascade: that it runs.
        watch: whose state is told, or None.
    """

    def __init__(self, pool: Pool, cascade: Cascade, watch: Watched | None) -> None:
        self._registry = mine = CollectorRegistry()
        self._requests = Counter(
            "cascadebert_requests", "Requests answered.", ["path", "status"], registry=mine
        )
        self._seconds = Histogram(
            "cascadebert_request_seconds", "From a request's head to its answer.", ["path"],
            buckets=BUCKETS, registry=mine,
        )  # fmt: skip
        self._rows = Counter("cascadebert_rows", "Rows answered.", registry=mine)
        self._degraded = Counter(
            "cascadebert_degraded_rows", "Rows answered by an earlier stage than wanted.", registry=mine
        )
        self._outside = Counter(
            "cascadebert_outside_certificate_requests", "Requests the certificate does not cover.",
            registry=mine,
        )  # fmt: skip
        self._expired = Counter(
            "cascadebert_expired_requests", "Requests whose deadline passed.", registry=mine
        )
        ProcessCollector(registry=mine)
        mine.register(_States(pool, cascade, watch))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; paths that there are not are counted together."""
        known = path if path in PATHS else "other"
        self._requests.labels(known, status).inc()
        self._seconds.labels(known).observe(seconds)
        if status == 504:
            self._expired.inc()

    def answered(self, answer: RequestResult) -> None:
        """Count the rows of an answer."""
        self._rows.inc(len(answer.rows))
        self._degraded.inc(sum(row.degraded for row in answer.rows))
        self._outside.inc(answer.uncertified_reason is not None)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)


class _States(Collector):
    def __init__(self, pool: Pool, cascade: Cascade, watch: Watched | None) -> None:
        self._pool, self._watch = pool, watch
        certificate = cascade.operating_point.certificate
        self._promises = () if certificate is None or cascade.uncertified_reason else certificate.guarantees

    def collect(self) -> Iterator[Metric]:
        """The families of pool and watch."""
        yield from _of_pool(self._pool.state())
        level = _gauge("certified_level", "What is promised at every operating point.", ["guarantee"])
        bound = _gauge("certified_bound", "What the test of it bounds at the folder's point.", ["guarantee"])
        for kept in self._promises:
            level.add_metric([kept.guarantee.description], kept.guarantee.level)
            bound.add_metric([kept.guarantee.description], kept.bound)
        yield from (level, bound)
        if self._watch is not None:
            yield from _of_watch(self._watch.state())

    def describe(self) -> Iterator[Metric]:
        """Nothing: the pool need not have begun when this is registered."""
        return iter(())


def _of_pool(state: DispatcherState) -> Iterator[Metric]:
    figures = (
        ("ready", "Requests are accepted.", state.ready),
        ("operating_point", "Place on the ladder, 0 the safest.", state.operating_point),
        ("operating_points", "On the ladder.", len(state.operating_points)),
        ("expected_delay_seconds", "That a request that arrives now waits.", state.estimated_delay),
        ("delay_limit_seconds", "Expected delay beyond which requests are refused.", state.admission_delay_limit),
        ("rows_in_flight", "Accepted and not answered.", state.inflight_texts),
        ("audits_waiting", "Rows that the last stage is yet to check.", state.shadow_backlog),
    )
    for name, help_text, value in figures:
        yield _gauge(name, help_text, value=float(value))
    yield CounterMetricFamily("cascadebert_moves", "Along the ladder.", value=state.switches)
    exits = CounterMetricFamily("cascadebert_exits", "Rows answered at a stage.", labels=["stage"])
    waiting = _gauge("waiting_rows", "In a stage's queue.", ["stage"])
    delay = _gauge("queue_delay_seconds", "That the first in the queue has waited.", ["stage"])
    up = _gauge("stage_up", "Whether a stage answers.", ["stage"])
    for number, stage in enumerate(state.stages, start=1):
        here = [str(number)]
        exits.add_metric(here, stage.exits)
        waiting.add_metric(here, stage.queue_size)
        delay.add_metric(here, stage.oldest_age)
        up.add_metric(here, float(stage.up))
    yield from (exits, waiting, delay, up)


def _of_watch(state: MonitorState) -> Iterator[Metric]:
    yield _gauge("shadow_rate", "Share of arriving rows that the last stage checks.", value=state.rate)
    audited = CounterMetricFamily("cascadebert_audited_rows", "Checked by the last stage.", labels=["point"])
    agreement = _gauge("agreement", "Share of rows with the last stage's answer.", ["point"])
    low = _gauge("agreement_low", "Lower end of its interval.", ["point"])
    high = _gauge("agreement_high", "Upper end of its interval.", ["point"])
    for one in state.points:
        here = [str(one.point)]
        audited.add_metric(here, one.audited)
        low.add_metric(here, one.low)
        high.add_metric(here, one.high)
        if one.agreement is not None:
            agreement.add_metric(here, one.agreement)
    breaches = CounterMetricFamily(
        "cascadebert_breaches", "Alarms of the watch on the quality.", labels=["kind", "point"]
    )
    for breach in state.breaches:
        point = "all" if breach.point is None else str(breach.point)
        breaches.add_metric([breach.kind, point], breach.times)
    yield from (audited, agreement, low, high, breaches)


def _gauge(
    name: str, help_text: str, labels: list[str] | None = None, value: float | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cascadebert_{name}", help_text, value=value, labels=labels)
