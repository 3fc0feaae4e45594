"""The page of a build: one HTML file without external resources, scripts or texts of the data."""

from __future__ import annotations

from pathlib import Path

from cascadebert.environment import machine, versions
from cascadebert.evaluation.templates import render
from cascadebert.training.cascade_builder import summary
from cascadebert.training.cascade_builder.curve import curve_chart
from cascadebert.training.cascade_builder.result import BuildResult

PURPOSES = {
    "train": "train the small models",
    "tune": "choose stages and thresholds",
    "certify": "certify",
    "report": "report",
    "corpus": "train, from the corpus",
}


def write_page(path: Path, result: BuildResult) -> None:
    """Write the page to a new file."""
    path.write_text(render_page(result), "utf-8")


def render_page(result: BuildResult) -> str:
    """The page as text: the decision first, then the evidence. Raises MissingExtra without jinja2."""
    return render(
        "training/cascade_builder/page.html",
        result=result,
        headline=summary.headline(result),
        evidence=summary.evidence(result),
        stages=summary.chosen_stages(result),
        choice=summary.choice_sentences(result),
        runners_up=summary.runners_up(result),
        certificate=summary.certificate_sentence(result),
        curve=curve_chart(result),
        parts={PURPOSES.get(name, name): count for name, count in result.parts.items()},
        machine=machine(),
        versions=versions(),
    )
