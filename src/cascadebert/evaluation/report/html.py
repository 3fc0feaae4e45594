"""The report page: one HTML file without external resources, scripts or texts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cascadebert.atomic import atomic_file
from cascadebert.environment import machine, versions
from cascadebert.errors import DataError, extra
from cascadebert.evaluation.plots import errors_chart, reliability_chart, risk_chart, time_chart
from cascadebert.evaluation.report.analysis import Group
from cascadebert.evaluation.report.build import CascadeReport
from cascadebert.evaluation.report.verdict import summary
from cascadebert.evaluation.templates import render
from cascadebert.paths import ensure_writable_file, shown

MAX_GROUPS = 30
KINDS = {"class": "By class", "length": "By length", "stage": "By stage"}


def check_report_libraries() -> None:
    """Raise MissingExtra if a library that draws pages is not installed."""
    with extra("tune"):
        for library in ("jinja2", "matplotlib"):
            import_module(library)


def ensure_report_writable(path: Path) -> None:
    """Check the path and the optional libraries before anything costly runs.

    Raises DataError if it is not an HTML file or cannot be written, and MissingExtra if a library is not
    installed.
    """
    check_report_libraries()
    if path.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{shown(path)}: expected a file ending in .html to write the report to")
    ensure_writable_file(path, overwrite=True)


def write_report(path: Path, report: CascadeReport) -> None:
    """Write the page atomically; replaces an existing file."""
    ensure_report_writable(path)
    with atomic_file(path) as temporary:
        temporary.write_text(render_report(report), "utf-8")


def render_report(report: CascadeReport) -> str:
    """The page as text: the decision first, then the evidence."""
    verdict, errors = report.verdict, report.verdict.high_confidence_errors
    return render(
        "evaluation/report/report.html",
        report=report,
        verdict=verdict,
        machine=machine(),
        versions=versions(),
        sentences=summary(verdict)[1:],
        groups=[(title, *_worst_groups(verdict.groups, kind)) for kind, title in KINDS.items()],
        time_chart=time_chart(verdict),
        risk_chart=risk_chart(verdict.calibration),
        reliability_charts=[reliability_chart(calibration) for calibration in verdict.calibration],
        errors_chart=errors_chart(errors) if errors.early_exits else "",
    )


def _worst_groups(groups: Sequence[Group], kind: str) -> tuple[list[Group], int]:
    """The groups of a kind, or of many those with most regressions; and the number that is not shown."""
    of_kind = [group for group in groups if group.kind == kind]
    if len(of_kind) <= MAX_GROUPS:
        return of_kind, 0
    worst = sorted(of_kind, key=lambda group: (-group.regressions, group.name))[:MAX_GROUPS]
    return worst, len(of_kind) - MAX_GROUPS
