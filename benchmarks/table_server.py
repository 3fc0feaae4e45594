"""Tables of the server."""

from __future__ import annotations

from table_cells import load, origin


def watch_table() -> str:
    """False alarms of the watch, and rows until it raises a true one."""
    found = load("server/watch.json")
    lines = ["| what changed | audited | rows | false alarms |", "|---|---|---|---|"]
    for one in (*found["false_alarms"], *found["small_shifts"]):
        what = f"confidences of {100 * one['shift']:g} % of the rows" if one["shift"] else "nothing"
        alarms = ", ".join(f"{kind} {times}" for kind, times in one["false_alarms"].items()) or "none"
        lines.append(
            f"| {what}; agreement at {one['agreement']:g} | {100 * one['rate']:g} % "
            f"| {one['rows']:,} | {alarms} |"
        )
    lines += ["", "| what changed | audited | rows to the alarm, median | 90 % |", "|---|---|---|---|"]
    for one in found["agreement_falls"]:
        rows = one["recent"]
        lines.append(
            f"| agreement from {one['from']:g} to {one['to']:g} | {100 * one['rate']:g} % "
            f"| {rows['median']:,.0f} | {rows['90']:,.0f} |"
        )
    for one in found["confidences_shift"]:
        rows = one["rows"]
        lines.append(
            f"| confidences of {100 * one['shift']:g} % of the rows | - "
            f"| {rows['median']:,.0f} | {rows['90']:,.0f} |"
        )
    falls, calls = found["agreement_falls"], found["microseconds"]
    runs, healthy = min(one["runs"] for one in falls), falls[0]["healthy_rows"]
    request = calls["left_8"] + calls["arrives_8"]
    said = (
        f"Certified: agreement of {found['level']:g}; {found['tune_rows']:,} tune rows, new in each run. "
        f"{runs} runs or more of each change, after {healthy:,} healthy rows. A request of 8 rows costs the "
        f"watch {request:.0f} microseconds, an audited row {calls['audited']:.0f}. {origin(found)}"
    )
    return "\n".join([*lines, "", said])
