"""The document at `/info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cascadebert import __version__
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import MonitorState
from cascadebert.server.types import DispatcherState
from cascadebert.thresholds.operating_point import Certificate


def server_info(
    cascade: Cascade, config: ServerConfig, state: DispatcherState, monitor: MonitorState | None
) -> dict[str, Any]:
    """Describe a running server in values that JSON can hold, without its token."""
    certificate = cascade.operating_point.certificate if state.uncertified_reason is None else None
    metrics, points = cascade.operating_point.metrics, _operating_points(state, certificate)
    return {
        "version": __version__,
        "ready": state.ready,
        "labels": cascade.label_names,
        "texts_per_row": None if cascade.spec is None else cascade.spec.texts_per_row,
        "stages": _stages(cascade, state),
        "operating_point": {key: points[state.operating_point][key] for key in ("index", "thresholds")},
        "operating_points": points,
        "tuning_metrics": None if metrics is None else asdict(metrics),
        "certificate": None if certificate is None else _certificate(certificate),
        "uncertified_reason": state.uncertified_reason,
        "switches": state.switches,
        "estimated_delay_ms": round(1000 * state.estimated_delay, 3),
        "admission_delay_limit_ms": round(1000 * state.admission_delay_limit, 3),
        "inflight_texts": state.inflight_texts,
        "cached_texts": state.cached_texts,
        "shadow_queue_size": state.shadow_backlog,
        "monitoring": None if monitor is None else asdict(monitor),
        "config": {key: value for key, value in asdict(config).items() if key not in ("token", "seed")},
    }


def _operating_points(state: DispatcherState, certificate: Certificate | None) -> list[dict[str, Any]]:
    points = () if certificate is None else certificate.points
    certified = {point.thresholds: asdict(point) for point in points}
    unknown = {"exit_rates": None, "speedup": None}
    return [
        {"index": index, "thresholds": thresholds} | certified.get(thresholds, unknown)
        for index, thresholds in enumerate(state.operating_points)
    ]


def _stages(cascade: Cascade, dispatcher: DispatcherState) -> list[dict[str, Any]]:
    report = None if cascade.spec is None else cascade.spec.measured
    exits = sum(state.exits for state in dispatcher.stages)
    return [
        {
            "name": stage.name,
            "num_layers": stage.layers,
            "hidden_size": stage.hidden,
            "max_tokens": stage.tokenizer.max_length,
            "accuracy": report.stages[i].accuracy if report is not None and report.stages else None,
            "up": state.up,
            "reason": state.reason,
            "queue_size": state.queue_size,
            "queue_oldest_age_ms": round(1000 * state.oldest_age, 3),
            "exits": state.exits,
            "exit_rate": state.exits / exits if exits else None,
        }
        for i, (stage, state) in enumerate(zip(cascade.stages, dispatcher.stages, strict=True))
    ]


def _certificate(certificate: Certificate) -> dict[str, Any]:
    guarantees = [
        asdict(result.guarantee)
        | {"description": result.guarantee.description, "n": result.n, "bound": result.bound}
        for result in certificate.guarantees
    ]
    fields = {name: getattr(certificate, name) for name in ("n", "engine", "precision", "device")}
    return {"confidence": 1 - certificate.delta, **fields, "guarantees": guarantees}
