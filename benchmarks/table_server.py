"""Tables of the server."""

from __future__ import annotations

from table_cells import load, origin, spread


def monitoring_table() -> str:
    """False alarms of the quality monitoring, and texts until a true alarm."""
    found = load("server/watch.json")
    lines = ["| what changed | shadow rate | texts | false alarms |", "|---|---|---|---|"]
    for one in (*found["false_alarms"], *found["small_shifts"]):
        counts = one["false_alarms"]
        what = f"confidences of {100 * one['shift']:g} % of the texts" if one["shift"] else "nothing"
        alarms = [f"`{alarm_kind(kind)}` {count}" for kind, count in counts.items()]
        lines.append(
            f"| {what}; agreement at {one['agreement']:g} | {100 * one['rate']:g} % "
            f"| {one['rows']:,} | {', '.join(alarms) or 'none'} |"
        )
    lines += [
        "",
        "| what changed | shadow rate | texts until the alarm, median | 90 % |",
        "|---|---|---|---|",
    ]
    for one in found["agreement_falls"]:
        rows = one["recent"]
        lines.append(
            f"| agreement from {one['from']:g} to {one['to']:g} | {100 * one['rate']:g} % "
            f"| {rows['median']:,.0f} | {rows['90']:,.0f} |"
        )
    for one in found["confidences_shift"]:
        rows = one["rows"]
        lines.append(
            f"| confidences of {100 * one['shift']:g} % of the texts | - "
            f"| {rows['median']:,.0f} | {rows['90']:,.0f} |"
        )
    falls, calls = found["agreement_falls"], found["microseconds"]
    runs, healthy = min(one["runs"] for one in falls), falls[0]["healthy_rows"]
    request = calls["left_8"] + calls["arrives_8"]
    said = (
        f"Certified: agreement of {found['level']:g}; {found['tune_rows']:,} tuning examples, new in each "
        f"run. {runs} runs or more of each change, after {healthy:,} healthy texts. A request of 8 texts "
        f"costs the monitor {request:.0f} microseconds, a shadow evaluation "
        f"{calls['audited']:.0f}. {origin(found)}"
    )
    return "\n".join([*lines, "", said])


def alarm_kind(stored: str) -> str:
    """Today's name of a kind of alarm in the stored results."""
    return {"recent agreement": "agreement_recent", "exit rates": "exit_rates"}.get(stored, stored)


def served_table() -> str:
    """Aims for a server, and what it reached."""
    found = load("server/summary.json")
    held, fuzzed = found["soak"], found["fuzz"]
    least = 0.85 * found["offline_ratio"]
    guarantees = (
        (
            "requests of 8 texts per second, relative to the last stage at the same p99",
            f"{least:.2f}x",
            "rps_ratio",
        ),
        (
            "relative to FastAPI and `transformers.pipeline`",
            "8x",
            "rps_vs_naive",
        ),
        ("texts per second relative to the bare cascade, large batches", "0.74x", "throughput_vs_bare"),
    )
    lines = ["| what | aim | measured |", "|---|---|---|"]
    lines += [f"| {what} | {asked} | {found[key]:.2f}x |" for what, asked, key in guarantees]
    lines += [
        f"| one text on an idle server: additional p50 latency | 2 ms | {found['idle_extra_ms']:.2f} ms |",
        f"| {held['minutes']} minutes at twice the capacity: goodput relative to capacity | 0.8 "
        f"| {held['goodput_share']:.2f} |",
        f"| p99 of the accepted ones of {held['requests']:,} requests | {held['target_ms']:.0f} ms "
        f"| {held['p99_ms']:.0f} ms |",
        f"| lost responses, responses of another request | 0, 0 | {held['lost']}, {held['crossed']} |",
        f"| growth of memory after the first minute | flat | {100 * held['rss_growth']:+.1f} % |",
        f"| status 500 among {fuzzed['requests']:,} fuzzed requests | 0 | {fuzzed['errors_500']} |",
    ]
    return "\n".join(lines)


def rates_table() -> str:
    """Requests a second that each server sustains at one p99."""
    found = load("server/rates.json")
    names = {
        "cascade": "the cascade",
        "last_stage": "its last stage alone",
        "pipeline": "FastAPI and `transformers.pipeline`",
    }
    searches = found["searches"]
    heads = [f"requests/s, {rows_of(one['rows'])}, {one['target_ms']:.0f} ms" for one in searches]
    lines = ["| server | " + " | ".join(heads) + " |", "|---" * (1 + len(searches)) + "|"]
    for name, words in names.items():
        rates = [[round_["servers"][name]["rate"] for round_ in one["rounds"]] for one in searches]
        cells = [spread(some) if max(some) else "less than 1" for some in rates]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    over = {
        "cascade over its last stage": "rps_ratio",
        "the same offline, whole file": "offline_ratio",
        "cascade over `transformers.pipeline`": "rps_vs_naive",
    }
    for words, key in over.items():
        ratios = [f"{one[key]:.2f}x" if one[key] else "n/a" for one in searches]
        lines.append(f"| {words} | " + " | ".join(ratios) + " |")
    said = (
        f"{100 * found['within']:.0f} % of all requests answered within those milliseconds of their "
        "scheduled arrival; mean of the rounds, lowest and highest; ratios: median of the rounds. "
        f"{origin(found)}"
    )
    return "\n".join([*lines, "", said])


def rows_of(count: int) -> str:
    """Texts of a request, in words."""
    return "one text" if count == 1 else f"{count} texts"
