"""The verb that keeps a cascade running: serve."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render as out
from cascadebert.errors import CascadeError, extra
from cascadebert.server.config import ServerConfig

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.server.types import DispatcherState

DEFAULT = ServerConfig()
TOKEN = "CASCADEBERT_TOKEN"
FAILURE, QUALITY = "Failure and overload", "Watch on the quality"

log = logging.getLogger("cascadebert")


def serve(
    folder: o.Folder,
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="To listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0 for any that is free.")] = 8000,
    latency_target_ms: Annotated[
        float, typer.Option(metavar="MS", help="From arrival to answer, aimed at under load.")
    ] = 1000 * DEFAULT.latency_target,
    adaptive: Annotated[
        bool, typer.Option(help="Move along the certified operating points with the load.")
    ] = DEFAULT.adaptive,
    max_client_batch_size: Annotated[
        int, typer.Option(metavar="N", help="Texts of one request.", rich_help_panel=FAILURE)
    ] = DEFAULT.max_client_batch_size,
    max_queue_size: Annotated[
        int, typer.Option(metavar="N", help="Texts that may wait at a stage.", rich_help_panel=FAILURE)
    ] = DEFAULT.max_queue_size,
    on_last_stage_failure: Annotated[
        Literal["degrade", "error"],
        typer.Option(
            metavar="WORD",
            help="While the last stage cannot be had: predict with the one before, or return an error.",
            rich_help_panel=FAILURE,
        ),
    ] = DEFAULT.on_last_stage_failure,
    shutdown_timeout: Annotated[
        float,
        typer.Option(metavar="S", help="To answer what is in flight when stopped.", rich_help_panel=FAILURE),
    ] = DEFAULT.shutdown_timeout,
    shadow_rate: Annotated[
        float,
        typer.Option(
            metavar="R", help="Share of the rows that the last stage checks as well.", rich_help_panel=QUALITY
        ),
    ] = DEFAULT.shadow_rate,
    on_alarm: Annotated[
        Literal["log", "safest-point"],
        typer.Option(
            metavar="WORD",
            help="On an alarm: log it, or switch to the safest operating point too.",
            rich_help_panel=QUALITY,
        ),
    ] = DEFAULT.on_alarm,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    json: o.Json = False,
) -> None:
    """Answer over HTTP until SIGTERM or Ctrl+C; what is in flight is answered first.

    The environment variable CASCADEBERT_TOKEN, if set, is what requests must bear. With --json the address is
    told in one machine-readable line as soon as requests are accepted.
    """
    with extra("serve"):
        from cascadebert.server.http.app import make_app
        from cascadebert.server.http.runner import listen, run
    from cascadebert.server.loading import open_cascade
    from cascadebert.server.monitoring.monitor import QualityMonitor
    from cascadebert.server.monitoring.state import reference_of
    from cascadebert.server.scheduling.dispatcher import BatchDispatcher

    out.show_server_log()
    settings = replace(
        DEFAULT, latency_target=latency_target_ms / 1000, adaptive=adaptive, max_client_batch_size=max_client_batch_size,
        max_queue_size=max_queue_size, on_last_stage_failure=on_last_stage_failure, shutdown_timeout=shutdown_timeout, shadow_rate=shadow_rate,
        on_alarm=on_alarm, token=_token(),
    )  # fmt: skip
    listener = listen(host, port)
    cascade = open_cascade(folder, settings, engine=engine, precision=precision)
    watch = QualityMonitor(reference_of(cascade), settings) if shadow_rate else None
    pool = BatchDispatcher(cascade, settings, monitor=watch)
    app = make_app(pool, cascade, settings, watch)
    url = _url(host, listener.getsockname()[1])

    def begun() -> None:
        _say(url, cascade, pool.state(), settings, host, json)

    run(app, listener, shutdown_timeout=shutdown_timeout, begun=begun)


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and (not token or not token.isascii() or any(one.isspace() for one in token)):
        raise CascadeError(f"{TOKEN} is set, but is no token of ASCII characters without spaces")
    return token


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say(url: str, cascade: Cascade, state: DispatcherState, settings: ServerConfig, host: str, json: bool) -> None:
    """One line in the log, and one for machines: where, at which point, with which certificate."""
    certificate = None if state.uncertified_reason else cascade.operating_point.certificate
    held = f"uncertified: {state.uncertified_reason}"
    if certificate is not None:
        guarantees = "; ".join(kept.guarantee.description for kept in certificate.guarantees)
        held = f"certified at {out.share(1 - certificate.delta)} confidence: {guarantees}"
    thresholds = ", ".join(f"{one:.4f}" for one in state.operating_points[state.operating_point]) or "none"
    place = f"operating point {state.operating_point} of {len(state.operating_points)} (leaves above {thresholds})"
    log.info("serving on %s at %s, %s", url, place, held)
    if settings.token is None and not _loopback(host):
        log.warning("anyone who reaches %s can use this server: set %s", host, TOKEN)
    values = {
        "url": url,
        "operating_point": state.operating_point,
        "operating_points": len(state.operating_points),
        "thresholds": state.operating_points[state.operating_point],
        "certificate": None if certificate is None else held,
        "uncertified_reason": state.uncertified_reason,
    }
    out.machine_line(values, json)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
