"""The printed result of `cascadebert build`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from cascadebert.cli.render import optional, print_json, print_notices, print_table
from cascadebert.errors import printable
from cascadebert.evaluation.templates import capitalized, duration, percent, rate, relative_cost

if TYPE_CHECKING:
    from cascadebert.training.cascade_builder.result import BuildResult
    from cascadebert.training.cascade_builder.search import PlannedBuild

NAME_WIDTH = 24
RETRY = "more --minutes, another --small or a lower target"


def print_build(result: BuildResult, retry: str = RETRY) -> None:
    """Print the candidates, the chosen chain, the certificate and the verdict.

    `retry` says with what the same command may find more.
    """
    from cascadebert.training.cascade_builder import summary

    print_notices(result.notices)
    _print_candidates(result)
    _print_chain(result)
    choice = [*summary.choice_sentences(result)]
    if result.certification is not None:
        choice.append(summary.certificate_sentence(result))
    verdict = typer.style(f"{summary.headline(result)}.", bold=True)
    reasons = map(capitalized, result.reasons)
    for paragraph in (choice, [verdict, *reasons, *summary.evidence(result)], [_next_step(result, retry)]):
        if paragraph:
            typer.echo("\n" + "\n".join(paragraph))
    print_json(asdict(result))


def print_plan(plan: PlannedBuild) -> None:
    """Print the texts by purpose, and every candidate with its estimates."""
    schedule = plan.schedule
    typer.echo("Texts: " + ", ".join(f"{count:,} to {name}" for name, count in plan.parts.items() if count))
    pass_time = _minutes(schedule.pass_seconds)
    typer.echo(f"The classifier runs on {schedule.texts:,} of the texts to train on: {pass_time}.")
    rows = [("candidate", "layers x width", "operations", "to make")]
    for one in plan.candidates:
        size = f"{one.candidate.layers} x {one.candidate.hidden}"
        minutes = "not enough time" if one.minutes is None else _minutes(60 * one.minutes)
        rows.append((_short(one.candidate.name), size, relative_cost(one.relative_cost), minutes))
    print_table(*rows)
    typer.echo(
        f"Choosing, certifying and timing: {_minutes(schedule.finish_seconds)}. Estimates; a candidate that "
        "cannot pay beside those made before it is left out."
    )
    print_json(asdict(plan))


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 30 else f"{seconds:.0f} seconds"


def _print_candidates(result: BuildResult) -> None:
    labeled = any(candidate.accuracy is not None for candidate in result.candidates)
    accuracy = ("accuracy",) if labeled else ()
    rows: list[tuple[str, ...]] = [
        ("candidate", "layers x width", "agreement", *accuracy, "cost", "texts/s", "made in")
    ]
    for candidate in result.candidates:
        if candidate.state != "not made":
            size = f"{candidate.layers} x {candidate.hidden}"
            quality = (candidate.agreement, candidate.accuracy) if labeled else (candidate.agreement,)
            cost = optional(candidate.relative_cost, relative_cost)
            speed = optional(candidate.texts_per_second, rate), optional(candidate.seconds, duration)
            qualities = (optional(value, percent) for value in quality)
            rows.append((_short(candidate.name), size, *qualities, cost, *speed))
    print_table(*rows)
    for candidate in result.candidates:
        if candidate.state == "not made":
            typer.echo(f"Not made: {_short(candidate.name)}: {candidate.reason}")


def _print_chain(result: BuildResult) -> None:
    from cascadebert.training.cascade_builder.summary import chosen_stages

    if result.chosen is None:
        return
    rows = [("chosen chain" if result.cascades else "best chain", "exits", "texts/s alone")]
    for number, stage in enumerate(chosen_stages(result), start=1):
        speed = optional(stage.candidate.texts_per_second, rate)
        rows.append((f"{number}. {_short(stage.candidate.name)}", optional(stage.exit_rate, percent), speed))
    if result.report is not None:
        rows.append(("cascade", "", rate(result.report.timing.cascade.examples_per_second)))
    typer.echo()
    print_table(*rows)


def _short(name: str) -> str:
    return printable(name, NAME_WIDTH)


def _next_step(result: BuildResult, retry: str) -> str:
    output = shlex.quote(str(result.output))
    if result.cascades:
        return f"Saved in {output}. Next: cascadebert predict {output} DATA --output predictions.csv"
    return (
        f"Only {shlex.quote(str(result.output / 'report.html'))} was saved. Next: the same command with "
        f"{retry} keeps what was made and tries more."
    )
