"""How often does the quality monitor raise a false alarm, and how soon does it detect a change?

Simulated traffic of a cascade of two stages goes through `QualityMonitor` in requests, as a server would send
it. Where agreement with the last stage is at its certified level, or above, and confidences are drawn as
those of the tuning set were, every alarm is a false one. The guarantees of the monitor: agreement over all
time, ever a false alarm with probability at most 0.01; recent agreement, within n evaluated texts with
probability at most n / 1,000,000; exit rates and confidences, within n blocks of 256 texts with probability
at most 0.01 (a bad sample as tuning set) and n / 1,000,000, also where the difference is within the
tolerance.

    python benchmarks/watch.py        # goes on after a kill; some minutes on one core

Results: results/server/watch.json; parts that are done lie in build/watch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cascadebert.evaluation.drift_statistics import TOLERANCE
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import QualityMonitor, Reference
from cascadebert.server.monitoring.sequential_tests import LossCounts, confidence_sequence
from cascadebert.server.scheduling.ordered_reporter import OrderedReporter, PendingResult
from cascadebert.thresholds.confidence import histogram
from cascadebert.timing import interleaved
from cascadebert.types import Bools, Floats, Ints
from stored import ROOT, current_commit, part, write_result

PARTS = ROOT / "build" / "watch"
RESULT = ROOT / "results" / "server" / "watch.json"
LEVEL, THRESHOLD, TUNE_ROWS = 0.98, 0.88, 2000
REQUEST, CHUNK = 64, 1000
LONG, REPEATS = 1_000_000, 20
HEALTHY, MOST, DRAWS = 100_000, 3_000_000, 100
BURST = 512


@dataclass(frozen=True)
class World:
    """Traffic: its agreement with the last stage, and the share of rows whose confidence has gone low.

    That share is the Kolmogorov-Smirnov distance of the first stage's confidences from those of the tune rows
    (to 0.0001). Stage 1 answers two rows in three; only these can disagree with the last stage.
    """

    agreement: float
    shift: float = 0.0

    def rows(self, rng: np.random.Generator, n: int) -> tuple[Ints, Floats, Bools]:
        """Stages that answer, first-stage confidences, and whether answers are the last stage's own."""
        sure = 0.5 + 0.5 * rng.beta(4, 1, n)
        low = rng.random(n) < self.shift
        sure[low] = rng.uniform(0.5, 0.55, int(low.sum()))
        early = sure > THRESHOLD
        share = (1 - self.shift) * (1 - ((THRESHOLD - 0.5) * 2) ** 4)
        lost = early & (rng.random(n) < (1 - self.agreement) / share)
        return np.where(early, 1, 2), sure, ~lost


def main() -> None:
    """Run what is not done yet."""
    logging.getLogger("cascadebert").setLevel(logging.ERROR)
    commit = current_commit()
    found = {name: part(PARTS / f"{name}.json", make) for name, make in plan()}
    values = {
        "level": LEVEL,
        "tune_rows": TUNE_ROWS,
        "tolerance": TOLERANCE,
        "false_alarms": [found[name] for name in found if name.startswith("quiet")],
        "small_shifts": [found[name] for name in found if name.startswith("small")],
        "agreement_falls": [found[name] for name in found if name.startswith("falls")],
        "confidences_shift": [found[name] for name in found if name.startswith("shifts")],
        "out_of_order": found["order"],
        "coverage": found["coverage"],
        "microseconds": found["cost"],
    }
    write_result(RESULT, values, data=[], commit=commit)


def plan() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every part with its name, longest last."""
    yield "cost", cost
    yield "coverage", coverage
    for shift in (0.1, 0.15, 0.2, 0.3):
        yield f"shifts-{shift}", partial(shifts, shift)
    for rate in (0.01, 0.05):
        for agreement in (0.96, 0.94, 0.90):
            yield f"falls-{agreement}-{rate}", partial(falls, agreement, rate)
    for shift in (0.02, 0.04, TOLERANCE):
        yield f"small-{shift}", partial(quiet, World(0.99, shift), 0.01)
    for rate in (0.01, 0.05):
        for agreement in (LEVEL, 0.99):
            yield f"quiet-{agreement}-{rate}", partial(quiet, World(agreement), rate)
    yield "order", order


def watch(rng: np.random.Generator, rate: float, seed: int) -> QualityMonitor:
    """A new one, with tune rows of its own."""
    sure = World(LEVEL).rows(rng, TUNE_ROWS)[1]
    early = float((sure > THRESHOLD).mean())
    reference = Reference(2, LEVEL, ((early, 1 - early),), TUNE_ROWS, histogram(sure))
    return QualityMonitor(reference, ServerConfig(shadow_rate=rate, on_alarm="safest-point", seed=seed))


def send(
    to: QualityMonitor, world: World, rng: np.random.Generator, rows: int, done: str | None = None
) -> None:
    """Traffic in requests, each audited at once, until all is sent or the alarm was raised."""
    for _ in range(-(-rows // (REQUEST * CHUNK))):
        stages, sure, agreed = world.rows(rng, REQUEST * CHUNK)
        for start in range(0, min(rows, len(stages)), REQUEST):
            here = slice(start, start + REQUEST)
            drawn, weight = to.sample_arrivals(REQUEST)
            to.record_exits(0, stages[here], sure[here])
            for row in np.flatnonzero(drawn):
                to.record_shadow_result(0, bool(agreed[start + row]), weight)
        if done is not None and done in alarms(to):
            return
        rows -= len(stages)


def alarms(of: QualityMonitor) -> dict[str, int]:
    """Rows until each kind of alarm was first raised."""
    return {alarm.kind: alarm.texts for alarm in of.state().alarms} if of.wants_safest_point() else {}


def quiet(world: World, rate: float) -> dict[str, Any]:
    """False alarms, by kind: every one counts, also in the same run."""
    false: Counter[str] = Counter()
    audited = 0
    for seed in range(REPEATS):
        rng = np.random.default_rng([seed, 1])
        one = watch(rng, rate, seed)
        send(one, world, rng, LONG)
        state = one.state()
        false.update({alarm.kind: alarm.count for alarm in state.alarms})
        audited += state.operating_points[0].shadow_evaluations
    return {
        "agreement": world.agreement,
        "shift": world.shift,
        "rate": rate,
        "runs": REPEATS,
        "rows": REPEATS * LONG,
        "audited": audited,
        "false_alarms": dict(false),
    }


def falls(to: float, rate: float) -> dict[str, Any]:
    """Rows from a fall of agreement, after healthy rows at the level, to the alarm."""
    recent, either, false = [], [], 0
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, 2])
        one = watch(rng, rate, seed)
        send(one, World(LEVEL), rng, HEALTHY)
        sent, early = one.state().texts, alarms(one)
        false += len(early)
        if not early:
            send(one, World(to), rng, MOST, "agreement_recent")
            found = {kind: rows - sent for kind, rows in alarms(one).items()}
            recent.append(found.get("agreement_recent", MOST))
            either.append(min(found.values(), default=MOST))
    return {
        "from": LEVEL,
        "to": to,
        "rate": rate,
        "runs": len(recent),
        "healthy_rows": HEALTHY,
        "false_alarms_before": false,
        "recent": spread(recent),
        "first_of_any": spread(either),
    }


def shifts(shift: float) -> dict[str, Any]:
    """Rows from a shift of confidences, after healthy rows, to the alarm."""
    found: list[int] = []
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, 3])
        one = watch(rng, 0.0, seed)
        send(one, World(LEVEL), rng, HEALTHY)
        sent = one.state().texts
        send(one, World(LEVEL, shift), rng, LONG, "confidences")
        found.append(alarms(one).get("confidences", sent + LONG) - sent)
    return {"shift": shift, "runs": DRAWS, "healthy_rows": HEALTHY, "rows": spread(found, LONG)}


def spread(rows: list[int], most: int = MOST) -> dict[str, Any]:
    """Median and 90 % quantile; `missed` runs count as the most."""
    missed = sum(one >= most for one in rows)
    return {"median": float(np.median(rows)), "90": float(np.quantile(rows, 0.9)), "missed": missed}


def order() -> dict[str, Any]:
    """What comes of bursts: deferred rows are known at once, the last stage checks others by the 512."""
    rate, at_once = 0.05, Counter[str]()
    in_turns: Counter[str] = Counter()
    for seed in range(REPEATS):
        rng = np.random.default_rng([seed, 4])
        stages, _, agreed = World(LEVEL).rows(rng, LONG // 20)
        one, other = (watch(np.random.default_rng([seed, 4]), rate, seed) for _ in range(2))
        line = OrderedReporter(other.record_shadow_result)
        burst: list[tuple[PendingResult, bool]] = []
        for stage, said in zip(stages.tolist(), agreed.tolist(), strict=True):
            turn = line.add(0, 1 / rate)
            if stage == 2:
                one.record_shadow_result(0, True, 1 / rate)
                line.resolve(turn, True)
                continue
            burst.append((turn, said))
            if len(burst) == BURST:
                for kept, verdict in burst:
                    one.record_shadow_result(0, verdict, 1 / rate)
                    line.resolve(kept, verdict)
                burst = []
        for watched, false in ((one, at_once), (other, in_turns)):
            false.update({alarm.kind: alarm.count for alarm in watched.state().alarms})
    return {
        "burst": BURST,
        "audited": REPEATS * LONG // 20,
        "false_alarms_told_as_known": dict(at_once),
        "false_alarms_in_turns": dict(in_turns),
    }


def coverage() -> dict[str, Any]:
    """How often the interval of agreement ever misses the truth, looked at on a grid of times."""
    runs, alpha, rows = 2000, 0.05, 5000
    looks = np.unique(np.geomspace(1, rows, 60).astype(int))
    low = high = 0
    widths = []
    for seed in range(runs):
        lost = np.random.default_rng([seed, 5]).random(rows) < 1 - LEVEL
        counts = [LossCounts({1.0: int(lost[:n].sum())}, {1.0: int(n)}) for n in looks]
        ends = [confidence_sequence(losses, alpha) for losses in counts]
        low += any(one[0] > 1 - LEVEL for one in ends)
        high += any(one[1] < 1 - LEVEL for one in ends)
        widths.append(ends[-1][1] - ends[-1][0])
    return {
        "runs": runs,
        "rows": rows,
        "looks": len(looks),
        "alpha_of_each_end": alpha,
        "missed_below": low / runs,
        "missed_above": high / runs,
        "median_width": float(np.median(widths)),
    }


def cost() -> dict[str, Any]:
    """Microseconds of each call, and of a row in requests of 8 at the usual rate."""
    rng = np.random.default_rng(6)
    stages, sure, _ = World(LEVEL).rows(rng, 1000)
    found: dict[str, float] = {}
    for n in (1, 8, 64):
        one = watch(rng, 0.01, 0)
        found[f"arrives_{n}"] = each(partial(one.sample_arrivals, n))
        found[f"left_{n}"] = each(partial(one.record_exits, 0, stages[:n], sure[:n]))
    found["audited"] = each(partial(watch(rng, 0.01, 0).record_shadow_result, 0, True, 100.0))
    found["row_in_requests_of_8"] = (found["arrives_8"] + found["left_8"]) / 8 + 0.01 * found["audited"]
    return found


def each(call: Callable[[], object]) -> float:
    """Microseconds of a call."""

    def many() -> None:
        for _ in range(CHUNK):
            call()

    return 1e6 * float(np.median(interleaved([many], repeats=15)[0])) / CHUNK


if __name__ == "__main__":
    main()
