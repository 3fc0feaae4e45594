"""What `/info` tells: the cascade, where it is on its ladder, how its queues are, what the audit has seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.types import DispatcherState
from cascadebert.thresholds.certificate import Certificate

if TYPE_CHECKING:
    from cascadebert.server.monitoring.state import MonitorState


class Watched(Protocol):
    """The watch of the quality, as it is shown."""

    def state(self) -> MonitorState:
        """What it has seen."""
        ...


def info(
    cascade: Cascade, settings: ServerConfig, pool: DispatcherState, watch: MonitorState | None
) -> dict[str, Any]:
    """Everything that may be known of a running server; plain values.

    Args:
        cascade: that is served.
        settings: of the server.
        pool: its state.
        watch: its state, or None where nothing is audited.
    """
    from cascadebert import __version__

    certified = pool.uncertified_reason is None
    certificate = cascade.operating_point.certificate if certified else None
    expected = cascade.operating_point.metrics
    return {
        "version": __version__,
        "ready": pool.ready,
        "labels": list(cascade.label_names),
        "texts_per_row": None if cascade.spec is None else cascade.spec.texts_per_row,
        "stages": _stages(cascade, pool),
        "operating_point": {"place": pool.operating_point, "thresholds": list(pool.operating_points[pool.operating_point])},
        "ladder": _ladder(pool, certificate),
        "expected": None if expected is None else asdict(expected),
        "certificate": None if certificate is None else _certificate(certificate),
        "uncertified_reason": pool.uncertified_reason,
        "moves": pool.switches,
        "expected_delay_ms": round(1000 * pool.estimated_delay, 3),
        "delay_limit_ms": round(1000 * pool.admission_delay_limit, 3),
        "rows_in_flight": pool.inflight_texts,
        "audits_waiting": pool.shadow_backlog,
        "audit": None if watch is None else asdict(watch),
        "settings": {key: value for key, value in asdict(settings).items() if key not in ("token", "seed")},
    }


def _stages(cascade: Cascade, pool: DispatcherState) -> list[dict[str, Any]]:
    report = None if cascade.spec is None else cascade.spec.measured
    answered = sum(state.exits for state in pool.stages)
    return [
        {
            "name": stage.name,
            "layers": stage.layers,
            "hidden": stage.hidden,
            "max_tokens": stage.tokenizer.max_length,
            "accuracy": report.stages[i].accuracy if report is not None and report.stages else None,
            "up": state.up,
            "why": state.reason,
            "waiting": state.queue_size,
            "queue_delay_ms": round(1000 * state.oldest_age, 3),
            "exits": state.exits,
            "exit_rate": state.exits / answered if answered else None,
        }
        for i, (stage, state) in enumerate(zip(cascade.stages, pool.stages, strict=True))
    ]


def _ladder(pool: DispatcherState, certificate: Certificate | None) -> list[dict[str, Any]]:
    known = {} if certificate is None else {point.thresholds: point for point in certificate.points}
    found = []
    for place, thresholds in enumerate(pool.operating_points):
        point = known.get(thresholds)
        found.append(
            {
                "place": place,
                "thresholds": list(thresholds),
                "exit_rates": None if point is None else list(point.exit_rates),
                "speedup": None if point is None else point.speedup,
            }
        )
    return found


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "confidence": 1 - certificate.delta,
        "n": certificate.n,
        "engine": certificate.engine,
        "precision": certificate.precision,
        "device": certificate.device,
        "guarantees": [
            {**asdict(kept.guarantee), "words": kept.guarantee.description, "n": kept.n, "bound": kept.bound}
            for kept in certificate.guarantees
        ],
    }
