"""The page of a verdict: one HTML file that needs nothing else and shows no text of any row."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from cascadebert.atomic import atomic_file
from cascadebert.errors import DataError, extra
from cascadebert.evaluation.report.build import CascadeReport
from cascadebert.evaluation.report.charts import mistakes_chart, reliability_chart, risk_chart, time_chart
from cascadebert.evaluation.report.comparison import faster, points
from cascadebert.evaluation.report.error_analysis import Group
from cascadebert.evaluation.report.verdict import percent, summary
from cascadebert.types import Interval

MOST_GROUPS = 30
KINDS = {"class": "Per class", "length": "Per length", "stage": "Per stage"}


def ensure_report_writable(path: Path) -> None:
    """Refuse a page that could not be written later, before anything costly is done.

    Raises:
        DataError: if it is no HTML file, or its folder does not exist.
        MissingExtra: if what makes it is not installed.
    """
    with extra("tune"):
        for library in ("jinja2", "matplotlib"):
            import_module(library)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise DataError(f"{path}: expected a file ending in .html to write the report to")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: the folder {path.absolute().parent} does not exist. Make it first.")


def write_report(path: Path, judged: CascadeReport) -> None:
    """Write the page, aside first and then renamed.

    Args:
        path: an HTML file; replaced if it exists.
        judged: from `judge_cascade`.
    """
    ensure_report_writable(path)
    with atomic_file(path) as aside:
        aside.write_text(render_report(judged), "utf-8")


def render_report(judged: CascadeReport) -> str:
    """The page as text: the verdict first, then what stands behind it."""
    with extra("tune"):
        from jinja2 import Environment, StrictUndefined
    verdict = judged.verdict
    house = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    house.filters |= {"percent": percent, "points": points, "faster": faster, "estimate": _estimate}
    template = house.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    said = summary(verdict)
    return template.render(
        judged=judged,
        verdict=verdict,
        answer=verdict.word[0].upper() + verdict.word[1:],
        reasons=[one[0].upper() + one[1:] for one in verdict.reasons],
        said=said[1:],
        contenders=[verdict.last_stage, *verdict.others],
        groups=[(title, *_shown(verdict.groups, kind)) for kind, title in KINDS.items()],
        time_chart=time_chart(verdict),
        risk_chart=risk_chart(verdict.trust),
        reliability_charts=[reliability_chart(one) for one in verdict.trust],
        mistakes_chart=mistakes_chart(verdict.mistakes) if verdict.mistakes.early else "",
    )


def _shown(groups: Sequence[Group], kind: str) -> tuple[list[Group], int]:
    """The groups of a kind, or those that bear most of many, and how many are not shown."""
    here = [one for one in groups if one.kind == kind]
    if len(here) <= MOST_GROUPS:
        return here, 0
    heavy = sorted(here, key=lambda one: (-one.lost, one.name))[:MOST_GROUPS]
    return heavy, len(here) - MOST_GROUPS


def _estimate(one: Interval) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
