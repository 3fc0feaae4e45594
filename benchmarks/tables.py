"""Write the tables of README.md and docs/results.md from the files under results/; numbers are never typed.

python benchmarks/tables.py            # rewrite what stands between the marks
python benchmarks/tables.py --check    # exit 1 if anything would change
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial

from table_cascades import (
    aims_table,
    cascades_table,
    coverage_table,
    demo_table,
    detail_table,
    ece_table,
    engines_table,
    labels_table,
    summary_table,
)
from table_cells import ROOT
from table_models import families_table
from table_paper import (
    paper_dar_table,
    paper_headline_table,
    paper_scores_table,
    paper_shallow_table,
    paper_table,
)
from table_processors import end_to_end_table, fastest_table, processor_labels_table, processors_table
from table_scale import cluster_table, many_rows_table
from table_server import monitoring_table, rates_table, served_table
from table_students import (
    gains_table,
    making_table,
    objectives_table,
    students_table,
    taught_table,
    unlabelled_table,
)

START, END = "<!-- {name}: made by benchmarks/tables.py -->", "<!-- end of {name} -->"


def main() -> None:
    """Rewrite or check every marked table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is stale")
    asked = parser.parse_args()
    stale = []
    for name, tables in PAGES.items():
        page = ROOT / name
        before = page.read_text("utf-8")
        after = filled(before, {mark: make() for mark, make in tables.items()})
        if before != after:
            stale.append(name)
            if not asked.check:
                page.write_text(after, "utf-8")
    if asked.check and stale:
        sys.exit(f"stale: {', '.join(stale)}; run python benchmarks/tables.py")


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with the text between each pair of marks replaced."""
    for name, table in tables.items():
        start, end = START.format(name=name), END.format(name=name)
        head, _, rest = page.partition(start)
        _, _, tail = rest.partition(end)
        page = f"{head}{start}\n{table}\n{end}{tail}"
    return page


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"cascades": cascades_table, "fastest": fastest_table},
    "docs/results.md": {
        "main results": summary_table,
        "details": detail_table,
        "cascades": cascades_table,
        "aims": aims_table,
        "engines": engines_table,
        "labels": labels_table,
        "demo results": demo_table,
    },
    "docs/inference.md": {
        "processors": processors_table,
        "processor labels": processor_labels_table,
        "end to end": end_to_end_table,
    },
    "docs/guarantees.md": {"coverage": coverage_table},
    "docs/models.md": {"families": families_table},
    "docs/evaluation.md": {"ece interval": ece_table},
    "docs/paper.md": {
        "paper headline": paper_headline_table,
        "paper scores": paper_scores_table,
        "paper scores by time": partial(paper_scores_table, basis="time"),
        "paper gains": paper_table,
        "paper dar": paper_dar_table,
        "paper shallow": paper_shallow_table,
    },
    "docs/scale.md": {"many rows": many_rows_table, "cluster": cluster_table},
    "docs/server.md": {"served": served_table, "rates": rates_table},
    "docs/monitoring.md": {"monitoring": monitoring_table},
    "docs/small-models.md": {
        "students": students_table,
        "gains": gains_table,
        "making": making_table,
        "objectives": objectives_table,
        "taught": taught_table,
        "unlabelled": unlabelled_table,
    },
}

if __name__ == "__main__":
    main()
