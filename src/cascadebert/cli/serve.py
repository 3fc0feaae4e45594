"""`cascadebert serve`: serve a cascade over HTTP."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import configure_logging, percent, print_json, threshold_list
from cascadebert.errors import CascadeError, extra
from cascadebert.server.config import ServerConfig

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.server.types import DispatcherState

TOKEN = "CASCADEBERT_TOKEN"

log = logging.getLogger("cascadebert")


def serve(
    folder: o.Folder,
    *,
    host: Annotated[str, o.option("Address to listen on.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 selects a free one.")
    ] = 8000,
    config: ServerConfig,
    engine: o.EngineOptions,
    json: o.Json = False,
) -> None:
    """Serve predictions over HTTP until SIGTERM or Ctrl+C; in-flight requests are completed first.

    If the environment variable CASCADEBERT_TOKEN is set, requests must carry it as a bearer token. With
    --json one line of JSON with the address is printed as soon as requests are accepted.
    """
    with extra("serve"):
        from cascadebert.server.http.app import make_app
        from cascadebert.server.http.runner import listen, run
    from cascadebert.server.loading import open_cascade
    from cascadebert.server.monitoring.monitor import QualityMonitor
    from cascadebert.server.monitoring.state import reference_of
    from cascadebert.server.scheduling.dispatcher import BatchDispatcher

    configure_logging(timestamps=True)
    config = replace(config, token=_token())
    listener = listen(host, port)
    cascade = open_cascade(folder, config, engine=engine.engine, precision=engine.precision)
    monitor = QualityMonitor(reference_of(cascade), config) if config.shadow_rate else None
    dispatcher = BatchDispatcher(cascade, config, monitor=monitor)
    app = make_app(dispatcher, cascade, config, monitor)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listener.getsockname()[1]}"

    def report_ready() -> None:
        if config.token is None and not _is_loopback(host):
            log.warning("anyone who reaches %s can use this server: set %s", host, TOKEN)
        print_json(_startup_values(url, cascade, dispatcher.state()), json)

    run(app, listener, shutdown_timeout=config.shutdown_timeout, begun=report_ready)


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and (not token or not token.isascii() or any(c.isspace() for c in token)):
        raise CascadeError(
            f"{TOKEN} must be a token of ASCII characters without spaces; unset it for no token"
        )
    return token


def _startup_values(url: str, cascade: Cascade, state: DispatcherState) -> dict[str, object]:
    """Log the address, the operating point and the certificate, and return them."""
    certificate = None if state.uncertified_reason else cascade.operating_point.certificate
    status = f"uncertified: {state.uncertified_reason}"
    if certificate is not None:
        guarantees = "; ".join(result.guarantee.description for result in certificate.guarantees)
        status = f"certified at {percent(1 - certificate.delta)} confidence: {guarantees}"
    index, count = state.operating_point, len(state.operating_points)
    thresholds = state.operating_points[index]
    exits = threshold_list(thresholds)
    log.info(
        "serving on %s at operating point %d of %d (exits above %s), %s", url, index, count, exits, status
    )
    return {
        "url": url,
        "operating_point": index,
        "operating_points": count,
        "thresholds": thresholds,
        "certificate": None if certificate is None else status,
        "uncertified_reason": state.uncertified_reason,
    }


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
