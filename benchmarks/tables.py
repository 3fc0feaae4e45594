"""Write the tables of README.md and docs/results.md from the files under results/; numbers are never typed.

python benchmarks/tables.py            # rewrite what stands between the marks
python benchmarks/tables.py --check    # exit 1 if anything would change
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "clinc150": "CLINC150"}
SHRINK_TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "agnews": "AG News", "clinc150": "CLINC150", "rte": "RTE"}
CASCADE_TASKS = {"sst2": "SST-2", "agnews": "AG News", "clinc150": "CLINC150", "imdb": "IMDB"}
SHRINK_MODELS = {
    "first-1": "first layer",
    "last-1": "last layer",
    "first-2": "first 2 layers",
    "spread-2": "first and last layer",
    "first-3": "first 3 layers",
    "spread-3": "3 spread layers",
}
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


def load(name: str) -> dict[str, Any]:
    """One result file."""
    found: dict[str, Any] = json.loads((ROOT / "results" / name).read_text("utf-8"))
    return found


def summary_table() -> str:
    """Small, large and cascade on real data, in one row a task."""
    lines = [
        "| task (test rows) | small alone | large alone | cascade | lost, 95 % interval | leave early "
        "| measured speed-up |",
        "|" + "---|" * 7,
    ]
    for task, name in TASKS.items():
        found = load(f"main/{task}.json")
        small, large = found["stages"][0], found["stages"][-1]
        ours, lost = found["cascade"], found["cascade"]["accuracy_drop"]
        low, high = (100 * bound for bound in lost["interval_95"])
        gain, (slow, fast) = ours["measured_speedup"], ours["measured_range"]
        lines.append(
            f"| {name} ({found['n']:,}) | {percent(small['accuracy'])} | {percent(large['accuracy'])} "
            f"| {percent(ours['accuracy'])} | {100 * lost['value']:+.1f} ({low:+.1f} to {high:+.1f}) "
            f"| {percent(ours['exit_rates'][0])} | {gain:.2f}x ({slow:.2f} to {fast:.2f}) |"
        )
    return "\n".join(lines)


def demo_table() -> str:
    """What the demo measured."""
    found = load("demo/demo.json")
    lines = [
        "| seed | small | large | cascade | leave early | measured speed-up | seconds in all |",
        "|" + "---|" * 7,
    ]
    for run in found["runs"]:
        lines.append(
            f"| {run['seed']} | {percent(run['small_accuracy'])} | {percent(run['large_accuracy'])} "
            f"| {percent(run['cascade_accuracy'])} | {percent(run['exit_rates'][0])} "
            f"| {run['measured_speedup']:.1f}x | {run['seconds']:.0f} |"
        )
    return "\n".join(lines)


def detail_table() -> str:
    """All that is measured per stage and task, with the command and the machine."""
    lines = []
    for task, name in TASKS.items():
        found = load(f"main/{task}.json")
        ours = found["cascade"]
        lines += [
            f"### {name}",
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


def students_table() -> str:
    """Students and cut layers, fine-tuned: cost, speed and accuracy."""
    found, clock = load("shrink/finetune.json"), load("shrink/speed.json")
    flops, rates = found["flops_of_32_tokens"], clock["texts_per_second"]
    tasks = list(found["recipes"])
    lines = [
        f"| model | FLOPs | texts/s | {' | '.join(SHRINK_TASKS[task] for task in tasks)} | mean |",
        "|" + "---|" * (4 + len(tasks)),
    ]
    for model in [name for name in flops if name != "large"]:
        means = [
            mean(run["accuracy"] for run in found["runs"] if (run["model"], run["task"]) == (model, task))
            for task in tasks
        ]
        cells = " | ".join(f"{100 * one:.1f}" for one in [*means, mean(means)])
        faster = median(a / b for a, b in zip(rates[model], rates["large"], strict=True))
        name = SHRINK_MODELS.get(model, f"complete {model.replace('x', ' x ')}")
        lines.append(f"| {name} | {flops[model] / flops['large']:.3f} | {faster:.1f}x | {cells} |")
    return "\n".join(lines)


def gains_table() -> str:
    """How far complete students are ahead of cut layers of the same cost."""
    found = load("shrink/finetune.json")
    tasks = list(found["recipes"])
    lines = [
        f"| complete | over | {' | '.join(SHRINK_TASKS[task] for task in tasks)} | mean, 95 % interval |",
        "|" + "---|" * (3 + len(tasks)),
    ]
    for one in found["gains"]:
        cells = " | ".join(f"{100 * one['per_task'][task]:+.1f}" for task in tasks)
        low, high = (100 * bound for bound in one["interval_95"])
        whole = f"{100 * one['mean']:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {one['model']} | {SHRINK_MODELS[one['over']]} | {cells} | {whole} |")
    return "\n".join(lines)


def making_table() -> str:
    """What the students cost to make."""
    made, clock = load("shrink/make.json"), load("shrink/speed.json")
    lines = ["| student | parameters | hidden states not reproduced |", "|---|---|---|"]
    for one in made["students"]:
        lost = percent(one["held_out_loss"])
        lines.append(f"| {one['path'].replace('x', ' x ')} | {one['parameters'] / 1e6:.1f} M | {lost} |")
    lines += [
        "",
        f"All of them in one run of {made['minutes']:.0f} minutes on {made['tokens'] / 1e6:.1f} M tokens "
        f"({made['tokens_per_second']:,.0f} tokens/s, {percent(made['padding'])} padding; {made['machine']}; "
        f"commit `{made['commit'][:12]}`).",
        "",
        "| made in one run | tokens/s | GFLOP/s | share of the bf16 matrix ceiling |",
        "|---|---|---|---|",
    ]
    for one in clock["making"]:
        names, rate = ", ".join(one["students"]), one["tokens_per_second"]
        share = percent(one["share_of_ceiling"])
        lines.append(f"| {names} | {rate:,.0f} | {one['flops_per_second'] / 1e9:,.0f} | {share} |")
    return "\n".join(lines)


def objectives_table() -> str:
    """The two objectives on the same little text."""
    found = load("shrink/objectives.json")
    lines = ["| objective | student | SST-2 | CLINC150 |", "|---|---|---|---|"]
    runs = [run for run in found["runs"] if "task" in run]
    for key in dict.fromkeys((run["objective"], run["model"]) for run in runs):
        cells = []
        for task in ("sst2", "clinc150"):
            (scores,) = (
                run["accuracy"]
                for run in runs
                if (run["objective"], run["model"], run["task"]) == (*key, task)
            )
            cells.append(f"{100 * mean(scores):.1f} ({100 * min(scores):.1f} to {100 * max(scores):.1f})")
        lines.append(f"| {key[0]} | {key[1]} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def taught_table() -> str:
    """SST-2 with all its train rows and the large model's logits."""
    found = load("shrink/taught.json")
    lines = [
        "| model | accuracy | DIS | a cascade loses, 90 % leaving early |",
        "|---|---|---|---|",
    ]
    for model in dict.fromkeys(run["model"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["model"] == model]
        name = SHRINK_MODELS.get(model, f"complete {model.replace('x', ' x ')}")
        cells = [spread(100 * run["accuracy"] for run in runs), spread((run["dis"] for run in runs), 3)]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {spread(100 * run['cascade_loss'] for run in runs)} |"
        )
    large = percent(found["large_accuracy"])
    return "\n".join([*lines, "", f"Large model: {large}. {origin(found)}"])


def unlabelled_table() -> str:
    """What rows without labels add."""
    found = load("shrink/unlabelled.json")
    arms = [name for name in found["runs"][0] if name not in ("task", "seed", "large", "unlabelled")]
    lines = [f"| task | large model | {' | '.join(arms)} |", "|" + "---|" * (2 + len(arms))]
    for task in dict.fromkeys(run["task"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["task"] == task]
        cells = [spread(100 * run[arm]["accuracy"] for run in runs) for arm in ("large", *arms)]
        lines.append(f"| {SHRINK_TASKS[task]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", origin(found)])


def cascades_table() -> str:
    """Cascades for at most half a point lost on held-out rows, against what they replace."""
    found = load("inference/tasks.json")
    lines = [
        "| task (test rows) | stages | leave at each | lost, 95 % interval | over the large stage "
        "| share of the oracle | over `transformers.pipeline`, batch 32 |",
        "|" + "---|" * 7,
    ]
    ratios, drops = [], []
    promised = load("inference/summary.json")
    for task, one in found["tasks"].items():
        clock, lost = one["bench"], one["drop_on_test_rows"]
        low, high = (100 * lost[bound] for bound in ("low", "high"))
        rates = " / ".join(f"{100 * rate:.0f}" for rate in clock["exit_rates"])
        slow, fast = clock["range"]
        ratios.append(clock["measured_speedup"])
        drops.append(100 * lost["value"])
        lines.append(
            f"| {CASCADE_TASKS[task]} ({one['test_rows']:,}) | {', '.join(one['stages'])} | {rates} % "
            f"| {100 * lost['value']:+.1f} ({low:+.1f} to {high:+.1f}) "
            f"| {ratios[-1]:.2f}x ({slow:.2f} to {fast:.2f}) | {one['oracle']['share']:.2f} "
            f"| {promised['vs_pipeline_b32'][task]:.1f}x |"
        )
    lines.append(f"| mean | | | {mean(drops):+.1f} | {mean(ratios):.2f}x | | |")
    return "\n".join([*lines, "", origin(found)])


def engines_table() -> str:
    """Every engine on models of three sizes."""
    found = load("inference/engines.json")
    lines = ["| model | engine | ms | over torch float32 | share of its ceiling | change by neighbours |"]
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
            lines.append(f"| {CASCADE_TASKS[task]} | {stage} | {cells} |")
    return "\n".join(lines)


def promises_table() -> str:
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
        ("share of the matrix ceiling of the same precision", "0.75", f"{found['ceiling_share']:.2f}"),
        ("labels equal to float32, SST-2 and CLINC150 (the lower)", "99.5 %", f"{100 * lowest:.2f} %"),
        ("routing overhead, 20,000 rows of mixed length", "at most 3 %", percent(found["routing_overhead"])),
        ("tokens computed over real tokens, SST-2 and IMDB (the higher)", "at most 1.05", f"{worst:.3f}"),
        ("over `transformers.pipeline`, batch 32, SST-2", "12x", f"{found['vs_pipeline_b32']['sst2']:.1f}x"),
        ("over the large stage alone, SST-2", "2.5x", f"{ratios['sst2']:.2f}x"),
        ("the same, mean of four tasks", "3x", f"{mean(ratios.values()):.2f}x"),
        ("accuracy lost, mean of four tasks", "at most 0.5 points", f"{100 * drop:.2f} points"),
        ("share of the oracle's speed-up, lowest and highest", "0.7",
         " to ".join(f"{pick(one['oracle_share'] for one in vs_last.values()):.2f}" for pick in (min, max))),
        ("static stage over the bare tokenizer, one core", "0.7x", f"{found['static_vs_tokenizer']:.2f}x"),
        ("memory for 2,000,000 rows over 20,000", "at most 1.1x", f"{found['memory_ratio']:.2f}x"),
        ("time of the last 200,000 rows over the first", "at most 1.1x", f"{found['time_ratio']:.2f}x"),
        ("site-packages of a base install", "at most 400 MB", f"{found['site_packages_mb']:.0f} MB"),
        ("`import cascadebert`", "under 0.2 s", f"{found['import_seconds']:.2f} s"),
        ("saved cascade to first answer, new process", "under 2 s", f"{found['ready_seconds']:.2f} s"),
    )  # fmt: skip
    return "\n".join(["| what | aim | found |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def coverage_table() -> str:
    """How often certificates were broken, and what speed they kept."""
    found = load("trust/coverage.json")
    lines = [
        "| rows | stages | promise | broken at delta 0.05 | at 0.2 | uncorrected | speed kept at 0.05 |",
        "|" + "---|" * 7,
    ]
    pairs = zip(found["rows"][::2], found["rows"][1::2], strict=True)
    for strict, loose in pairs:
        assert (strict["delta"], loose["delta"]) == (0.05, 0.2)
        name = CASCADE_TASKS.get(strict["data"], strict["data"])
        promise = f"{strict['promise'].replace('_', ' ')} {strict['level']:g}"
        shares = " | ".join(
            percent(one) for one in (strict["violations"], loose["violations"], strict["control_violations"])
        )
        lines.append(f"| {name} | {strict['stages']} | {promise} | {shares} | {strict['power']:.2f} |")
    runs, n = found["rows"][0]["runs"], found["rows"][0]["n"]
    return "\n".join([*lines, "", f"{runs:,} draws of {n:,} certify rows each. {origin(found)}"])


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean, lowest and highest."""
    found = list(values)
    return f"{mean(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def origin(found: Mapping[str, Any]) -> str:
    """Where a result file comes from."""
    return f"{found['machine']}; commit `{found['commit'][:12]}`, {found['date'][:10]}."


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f} %"


PAPER_TASKS = {
    "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "cola": "CoLA", "agnews": "AG News",
    "clinc150": "CLINC150", "imdb": "IMDB", "qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI",
}  # fmt: skip


def paper_table() -> str:
    """Every cascade against the best early exit, relative to the latter's mean over tasks."""
    found = load("paper/summary.json")["comparisons"]
    places = list(dict.fromkeys((one["basis"], one["target"]) for one in found))
    best = {(one["basis"], one["target"]): one["best_early_exit"] for one in found}
    heads = [f"{target:g}x {basis}, over {best[basis, target]}" for basis, target in places]
    lines = [f"| cascade | {' | '.join(heads)} |", "|" + "---|" * (1 + len(places))]
    for name in dict.fromkeys(one["cascade"] for one in found):
        cells = []
        for place in places:
            (one,) = (r for r in found if (r["cascade"], r["basis"], r["target"]) == (name, *place))
            cells.append(gain_cell(one))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain_cell(one: Mapping[str, Any]) -> str:
    """A relative improvement with its interval, then the chance-corrected one."""
    names = ("relative_improvement", "ci_low", "ci_high", "chance_corrected")
    gain, low, high, fairer = ("n/a" if one[n] is None else f"{100 * one[n]:+.1f}" for n in names)
    return f"{gain} % ({low} to {high}); {fairer} %"


def paper_scores_table(basis: str = "flops", target: float = 4.0) -> str:
    """Score of every method on every task at one target, mean over seeds; a tilde marks mixtures."""
    text = (ROOT / "results" / "paper" / "runs.jsonl").read_text("utf-8")
    runs = [json.loads(line) for line in text.splitlines()]
    runs = [run for run in runs if run["basis"] == basis and run["target"] in (1.0, target)]
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    heads = " | ".join(PAPER_TASKS.get(task, task) for task in tasks)
    lines = [f"| method | {heads} | mean | achieved |", "|" + "---|" * (3 + len(tasks))]
    for method in sorted({run["method"] for run in runs}):
        mine = [run for run in runs if run["method"] == method]
        each = [[run for run in mine if run["task"] == task] for task in tasks]
        means = [mean(run["score"] for run in one) for one in each]
        marks = ["~" if any(run["interpolated"] for run in one) else "" for one in each]
        cells = [f"{mark}{100 * one:.1f}" for mark, one in zip(marks, means, strict=True)]
        speeds = [run["achieved"] for run in mine]
        figures = [*cells, f"{100 * mean(means):.1f}", f"{min(speeds):.2f}x to {max(speeds):.2f}x"]
        lines.append(f"| {method} | {' | '.join(figures)} |")
    return "\n".join(lines)


def paper_dar_table() -> str:
    """What the difficulty-aware term does to the small stage by itself."""
    found = load("paper/summary.json")["dar"]
    metrics = list(dict.fromkeys(one["metric"] for one in found))
    heads = " | ".join("accuracy" if one == "accuracy" else one.upper() for one in metrics)
    lines = [f"| task | {heads} |", "|" + "---|" * (1 + len(metrics))]
    for task in dict.fromkeys(one["task"] for one in found):
        cells = [interval_cell(one) for one in found if one["task"] == task]
        lines.append(f"| {PAPER_TASKS.get(task, task)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paper_shallow_table() -> str:
    """A complete model on exactly the rows that an early exit leaves at its depth, weighted by rows."""
    found = load("paper/analyses.json")["complete_against_shallow"]
    lines = ["| early exit | target | layer | complete model | rows | exit | complete |", "|" + "---|" * 7]
    keys = ("method", "target", "layer", "complete")
    for key in dict.fromkeys(tuple(one[name] for name in keys) for one in found):
        same = [one for one in found if tuple(one[name] for name in keys) == key]
        rows = sum(one["rows"] for one in same)
        shares = [
            sum(one["rows"] * one[name] for one in same) / rows
            for name in ("exit_accuracy", "complete_accuracy")
        ]
        cells = f"{rows:,} | {percent(shares[0])} | {percent(shares[1])}"
        lines.append(f"| {key[0]} | {key[1]:g}x | {key[2]} | {key[3]} | {cells} |")
    return "\n".join(lines)


def interval_cell(one: Mapping[str, Any]) -> str:
    """A difference with its interval, or that there is none."""
    if one["delta"] is None or one["ci_low"] is None:
        return "n/a"
    return f"{one['delta']:+.3f} ({one['ci_low']:+.3f} to {one['ci_high']:+.3f})"


PAGES = {
    "README.md": {"cascades": cascades_table, "demo results": demo_table},
    "docs/results.md": {
        "main results": summary_table,
        "details": detail_table,
        "cascades": cascades_table,
        "promises": promises_table,
        "engines": engines_table,
        "labels": labels_table,
    },
    "docs/guarantees.md": {"coverage": coverage_table},
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
