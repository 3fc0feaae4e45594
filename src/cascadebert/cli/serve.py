"""`cascadebert serve`."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import configure_logging, print_json
from cascadebert.errors import extra
from cascadebert.evaluation.templates import percent
from cascadebert.server.config import TOKEN, ServerConfig, environment_token
from cascadebert.server.types import DispatcherState
from cascadebert.thresholds.operating_point import Certificate

LATENCY_MS = 1000 * ServerConfig.latency_target
LATENCY = "Target latency under load; requests without a deadline expire after ten times this."
CORS = "Origin whose web pages may use the server, such as http://localhost:3000; repeat it. *: any."

log = logging.getLogger("cascadebert")


def serve(
    folder: o.Folder,
    *,
    host: Annotated[str, o.option("Address to listen on.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    latency_target_ms: Annotated[float, o.option(LATENCY, "MS", "Server")] = LATENCY_MS,
    cors_origin: Annotated[list[str] | None, o.option(CORS, "ORIGIN", "Server")] = None,
    config: ServerConfig,
    engine: o.EngineOptions,
) -> None:
    """Serve predictions over HTTP until SIGTERM or Ctrl+C; in-flight requests are completed first.

    If the environment variable CASCADEBERT_TOKEN is set, requests need it as their bearer token.
    With --json, the address is printed as soon as requests are accepted.
    """
    with extra("serve"):
        from cascadebert.server.http.app import make_app
        from cascadebert.server.http.runner import listen, run
    from cascadebert.server.loading import open_cascade
    from cascadebert.server.monitoring.monitor import QualityMonitor, Reference
    from cascadebert.server.scheduling.dispatcher import BatchDispatcher

    configure_logging(timestamps=True)
    origins = tuple(cors_origin or ())
    config = replace(
        config, latency_target=latency_target_ms / 1000, token=environment_token(), cors_origins=origins
    )
    listener = listen(host, port)
    cascade = open_cascade(folder, config, engine=engine.engine, precision=engine.precision)
    monitor = QualityMonitor(Reference.from_cascade(cascade), config) if config.shadow_rate else None
    dispatcher = BatchDispatcher(cascade, config, monitor=monitor)
    address, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def report_ready() -> None:
        _report_state(url, dispatcher.state(), cascade.operating_point.certificate)
        if config.token is None and not ip_address(address).is_loopback:
            log.warning("anyone who reaches %s can use this server: set %s", url, TOKEN)

    app = make_app(dispatcher, cascade, config, monitor)
    run(app, listener, shutdown_timeout=config.shutdown_timeout, on_ready=report_ready)


def _report_state(url: str, state: DispatcherState, certificate: Certificate | None) -> None:
    index, points, reason = state.operating_point, state.operating_points, state.uncertified_reason
    status = None
    if certificate is not None and reason is None:
        guarantees = "; ".join(result.guarantee.description for result in certificate.guarantees)
        status = f"certified at {percent(1 - certificate.delta)} confidence: {guarantees}"
    point = f"operating point {index} of {len(points)}, thresholds {points[index]}"
    log.info("serving on %s at %s, %s", url, point, status or f"uncertified: {reason}")
    values = {"operating_point": index, "operating_points": len(points), "thresholds": points[index]}
    print_json({"url": url, **values, "certificate": status, "uncertified_reason": reason})
