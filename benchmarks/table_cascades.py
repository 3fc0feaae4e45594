"""Tables of cascades: on real data, beside what they replace, engines, certificates."""

from __future__ import annotations

from statistics import mean, median

from table_cells import TASKS, load, origin, percent

FITTED = ("sst2", "mrpc", "clinc150")


def summary_table() -> str:
    """Small, large and cascade on real data, in one row a task."""
    lines = [
        "| task (test examples) | small alone | large alone | cascade | lost, 95 % interval | exit early "
        "| measured speed-up |",
        "|" + "---|" * 7,
    ]
    for task in FITTED:
        found = load(f"main/{task}.json")
        small, large = found["stages"][0], found["stages"][-1]
        ours, lost = found["cascade"], found["cascade"]["accuracy_drop"]
        low, high = (100 * bound for bound in lost["interval_95"])
        gain, (slow, fast) = ours["measured_speedup"], ours["measured_range"]
        lines.append(
            f"| {TASKS[task]} ({found['n']:,}) | {percent(small['accuracy'])} | {percent(large['accuracy'])} "
            f"| {percent(ours['accuracy'])} | {100 * lost['value']:+.1f} ({low:+.1f} to {high:+.1f}) "
            f"| {percent(ours['exit_rates'][0])} | {gain:.2f}x ({slow:.2f} to {fast:.2f}) |"
        )
    return "\n".join(lines)


def demo_table() -> str:
    """What the demo measured."""
    found = load("demo/demo.json")
    lines = [
        "| seed | classifier | cascade | same prediction | stages | measured speed-up | total seconds |",
        "|" + "---|" * 7,
    ]
    for run in found["runs"]:
        lines.append(
            f"| {run['seed']} | {percent(run['classifier_accuracy'])} | {percent(run['cascade_accuracy'])} "
            f"| {percent(run['agreement'])} | {', '.join(run['stages'])} "
            f"| {run['measured_speedup']:.1f}x | {run['seconds']:.0f} |"
        )
    return "\n".join(lines)


def detail_table() -> str:
    """All that is measured per stage and task, with the command and the machine."""
    lines = []
    for task in FITTED:
        found = load(f"main/{task}.json")
        ours = found["cascade"]
        lines += [
            f"### {TASKS[task]}",
            "",
            found["note"],
            "",
            "| | layers | accuracy | ECE | DIS |",
            "|" + "---|" * 5,
        ]
        for number, one in enumerate(found["stages"], start=1):
            score = "n/a" if one["dis"] is None else f"{one['dis']:.3f}"
            figures = f"{percent(one['accuracy'])} | {one['ece']:.3f} | {score}"
            lines.append(f"| stage {number} alone | {one['layers']} | {figures} |")
        lines += [f"| cascade | | {percent(ours['accuracy'])} | {ours['ece']:.3f} | |", ""]
        lines += [
            f"Speed-ups: {ours['layers_speedup']:.2f}x by layers, {ours['flops_speedup']:.2f}x by FLOPs, "
            f"{ours['measured_speedup']:.2f}x measured; "
            f"routing overhead {percent(ours['routing_overhead'])}. "
            f"Seed {found['seed']}; {found['machine']}; "
            f"commit `{found['commit'][:12]}`, {found['date'][:10]}.",
            "",
            f"```console\n$ {found['command']}\n```",
            "",
        ]
    return "\n".join(lines)


def cascades_table() -> str:
    """Cascades for at most half a point lost on held-out rows, against what they replace."""
    found = load("inference/tasks.json")
    lines = [
        "| task (test examples) | stages | exits per stage | lost, 95 % interval "
        "| speed-up over the last stage | fraction of oracle speed-up "
        "| over `transformers.pipeline`, batch 32 |",
        "|" + "---|" * 7,
    ]
    ratios, drops = [], []
    summary = load("inference/summary.json")
    for task, one in found["tasks"].items():
        clock, lost = one["bench"], one["drop_on_test_rows"]
        low, high = (100 * lost[bound] for bound in ("low", "high"))
        rates = " / ".join(f"{100 * rate:.0f}" for rate in clock["exit_rates"])
        slow, fast = clock["range"]
        ratios.append(clock["measured_speedup"])
        drops.append(100 * lost["value"])
        lines.append(
            f"| {TASKS[task]} ({one['test_rows']:,}) | {', '.join(one['stages'])} | {rates} % "
            f"| {100 * lost['value']:+.1f} ({low:+.1f} to {high:+.1f}) "
            f"| {ratios[-1]:.2f}x ({slow:.2f} to {fast:.2f}) | {one['oracle']['share']:.2f} "
            f"| {summary['vs_pipeline_b32'][task]:.1f}x |"
        )
    lines.append(f"| mean | | | {mean(drops):+.1f} | {mean(ratios):.2f}x | | |")
    return "\n".join([*lines, "", origin(found)])


def engines_table() -> str:
    """Every engine on models of three sizes."""
    found = load("inference/engines.json")
    lines = ["| model | engine | ms | over torch float32 | fraction of its ceiling | change by neighbors |"]
    lines.append("|" + "---|" * 6)
    for size, engines in found["sizes"].items():
        for one in engines:
            taken = one["milliseconds"]
            lines.append(
                f"| {size} | {one['engine']} {one['precision']} | {median(taken):.1f} "
                f"({min(taken):.1f} to {max(taken):.1f}) | {one['over_torch_float32']:.2f}x "
                f"| {one['ceiling_share']:.2f} | {one['neighbours']:.0e} |"
            )
    return "\n".join([*lines, "", origin(found)])


def labels_table() -> str:
    """Share of rows to which each engine gives torch's float32 label."""
    found = load("inference/labels.json")["equal"]
    engines = list(next(iter(next(iter(found.values())).values())))[1:]
    lines = [f"| task | stage | {' | '.join(engines)} |", "|" + "---|" * (2 + len(engines))]
    for task, stages in found.items():
        for stage, shares in stages.items():
            cells = " | ".join(f"{100 * shares[engine]:.2f} %" for engine in engines)
            lines.append(f"| {TASKS[task]} | {stage} | {cells} |")
    return "\n".join(lines)


def aims_table() -> str:
    """What running a cascade was to reach, and what it reached."""
    found = load("inference/summary.json")
    vs_last = found["vs_last_stage"]
    ratios = {task: one["ratio"] for task, one in vs_last.items()}
    drop = mean(one["accuracy_drop"] for one in vs_last.values())
    lowest = min(found["agreement"][task] for task in ("sst2", "clinc150"))
    worst = max(found["padding"][task] for task in ("sst2", "imdb"))
    rows = (
        ("L12-H768, 32 x 32 tokens, default precision over torch float32", "3x",
         f"{found['engine_vs_torch_fp32']:.2f}x"),
        ("fraction of the matrix ceiling of the same precision", "0.75", f"{found['ceiling_share']:.2f}"),
        ("labels equal to float32, SST-2 and CLINC150 (the lower)", "99.5 %", f"{100 * lowest:.2f} %"),
        ("routing overhead, 20,000 texts of mixed length", "at most 3 %", percent(found["routing_overhead"])),
        ("computed over actual tokens, SST-2 and IMDB (the higher)", "at most 1.05", f"{worst:.3f}"),
        ("over `transformers.pipeline`, batch 32, SST-2", "12x", f"{found['vs_pipeline_b32']['sst2']:.1f}x"),
        ("speed-up over the last stage, SST-2", "2.5x", f"{ratios['sst2']:.2f}x"),
        ("the same, mean of four tasks", "3x", f"{mean(ratios.values()):.2f}x"),
        ("accuracy lost, mean of four tasks", "at most 0.5 points", f"{100 * drop:.2f} points"),
        ("fraction of the oracle's speed-up, lowest and highest", "0.7",
         " to ".join(f"{pick(one['oracle_share'] for one in vs_last.values()):.2f}" for pick in (min, max))),
        ("static stage over the bare tokenizer, one core", "0.7x", f"{found['static_vs_tokenizer']:.2f}x"),
        ("memory for 2,000,000 rows relative to 20,000", "at most 1.1x", f"{found['memory_ratio']:.2f}x"),
        ("time of the last 200,000 rows relative to the first",
         "at most 1.1x", f"{found['time_ratio']:.2f}x"),
        ("site-packages of the base install", "at most 400 MB", f"{found['site_packages_mb']:.0f} MB"),
        ("`import cascadebert`", "under 0.2 s", f"{found['import_seconds']:.3f} s"),
        ("new process to first prediction", "under 2 s", f"{found['ready_seconds']:.2f} s"),
    )  # fmt: skip
    return "\n".join(
        ["| what | aim | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def coverage_table() -> str:
    """How often certificates were broken, and what speed they kept."""
    found = load("trust/coverage.json")
    lines = [
        "| data | stages | guarantee | violated at delta 0.05 | at 0.2 | uncorrected | speed kept at 0.05 |",
        "|" + "---|" * 7,
    ]
    pairs = zip(found["rows"][::2], found["rows"][1::2], strict=True)
    for strict, loose in pairs:
        assert (strict["delta"], loose["delta"]) == (0.05, 0.2)
        name = TASKS.get(strict["data"], strict["data"])
        guarantee = f"{strict['guarantee'].replace('_', ' ')} {strict['level']:g}"
        shares = " | ".join(
            percent(one) for one in (strict["violations"], loose["violations"], strict["control_violations"])
        )
        lines.append(f"| {name} | {strict['stages']} | {guarantee} | {shares} | {strict['power']:.2f} |")
    runs, n = found["rows"][0]["runs"], found["rows"][0]["n"]
    return "\n".join([*lines, "", f"{runs:,} draws of {n:,} certification examples each. {origin(found)}"])


def ece_table() -> str:
    """How often the interval of the expected calibration error holds the true value."""
    found = load("trust/ece_interval.json")
    gaps = sorted({one["gap"] for one in found["rows"]})
    lines = [f"| examples | bins | {' | '.join(f'true ECE {gap:g}' for gap in gaps)} |"]
    lines.append("|" + "---|" * (2 + len(gaps)))
    for n, bins in dict.fromkeys((one["n"], one["bins"]) for one in found["rows"]):
        mine = {one["gap"]: one["held"] for one in found["rows"] if (one["n"], one["bins"]) == (n, bins)}
        cells = " | ".join(percent(mine[gap]) for gap in gaps)
        lines.append(f"| {n:,} | equal {bins} | {cells} |")
    return "\n".join([*lines, "", f"{found['runs']} runs each. {origin(found)}"])
