"""Table of the families of models that can be stages."""

from __future__ import annotations

from collections.abc import Mapping

from table_cells import load, origin

SIDES = {"right": "right", "left": "left", "none": "exact"}
ENGINES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def families_table() -> str:
    """Families with the same outcome on every engine share a line."""
    found = load("models/families.json")
    groups: dict[tuple[str, ...], list[str]] = {}
    for family, outcomes in found["families"].items():
        groups.setdefault(tuple(_cell(outcomes, engine) for engine in ENGINES), []).append(family)
    lines = [f"| families | {' | '.join(ENGINES.values())} |", "|---" * (1 + len(ENGINES)) + "|"]
    for cells, families in sorted(groups.items(), key=lambda group: -len(group[1])):
        lines.append(f"| {', '.join(families)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", origin(found)])


def _cell(outcomes: Mapping[str, str], engine: str) -> str:
    single, pair = (SIDES.get(outcomes[f"{engine} {kind}"], "refused") for kind in ("single", "pair"))
    return single if single == pair else f"{single}; pairs: {pair}"
