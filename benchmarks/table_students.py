"""Tables of complete small models: what they cost to make, and what they are worth."""

from __future__ import annotations

from statistics import mean, median

from table_cells import TASKS, load, origin, percent, spread

MODELS = {
    "first-1": "first layer",
    "last-1": "last layer",
    "first-2": "first 2 layers",
    "spread-2": "first and last layer",
    "first-3": "first 3 layers",
    "spread-3": "3 spread layers",
}


def students_table() -> str:
    """Students and cut layers, fine-tuned: cost, speed and accuracy."""
    found, clock = load("shrink/finetune.json"), load("shrink/speed.json")
    flops, rates = found["flops_of_32_tokens"], clock["texts_per_second"]
    tasks = list(found["recipes"])
    lines = [
        f"| model | FLOPs | texts/s | {' | '.join(TASKS[task] for task in tasks)} | mean |",
        "|" + "---|" * (4 + len(tasks)),
    ]
    for model in [name for name in flops if name != "large"]:
        means = [
            mean(run["accuracy"] for run in found["runs"] if (run["model"], run["task"]) == (model, task))
            for task in tasks
        ]
        cells = " | ".join(f"{100 * one:.1f}" for one in [*means, mean(means)])
        faster = median(a / b for a, b in zip(rates[model], rates["large"], strict=True))
        name = MODELS.get(model, f"complete {model.replace('x', ' x ')}")
        lines.append(f"| {name} | {flops[model] / flops['large']:.3f} | {faster:.1f}x | {cells} |")
    return "\n".join(lines)


def gains_table() -> str:
    """How far complete students are ahead of cut layers of the same cost."""
    found = load("shrink/finetune.json")
    tasks = list(found["recipes"])
    lines = [
        f"| complete | over | {' | '.join(TASKS[task] for task in tasks)} | mean, 95 % interval |",
        "|" + "---|" * (3 + len(tasks)),
    ]
    for one in found["gains"]:
        cells = " | ".join(f"{100 * one['per_task'][task]:+.1f}" for task in tasks)
        low, high = (100 * bound for bound in one["interval_95"])
        whole = f"{100 * one['mean']:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {one['model']} | {MODELS[one['over']]} | {cells} | {whole} |")
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
        "| distilled in one run | tokens/s | GFLOP/s | fraction of the bf16 matrix ceiling |",
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
        "| model | accuracy | DIS | loss of a cascade, 90 % early exits |",
        "|---|---|---|---|",
    ]
    for model in dict.fromkeys(run["model"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["model"] == model]
        name = MODELS.get(model, f"complete {model.replace('x', ' x ')}")
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
    header = " | ".join(arms).replace("unlabelled", "unlabeled")
    lines = [f"| task | large model | {header} |", "|" + "---|" * (2 + len(arms))]
    for task in dict.fromkeys(run["task"] for run in found["runs"]):
        runs = [run for run in found["runs"] if run["task"] == task]
        cells = [spread(100 * run[arm]["accuracy"] for run in runs) for arm in ("large", *arms)]
        lines.append(f"| {TASKS[task]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", origin(found)])
