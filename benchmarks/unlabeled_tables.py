"""The tables of `benchmarks/unlabeled.py`, in Markdown; all figures are points on the test images."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from scipy.stats import t as student

Line = dict[str, Any]
BIG_ROOM, BAR_SHARE, BAR_LOSS = 1.0, 0.5, -0.3
ORDER = ("consistent", "uniform", "reversed", "ood")
COLUMNS = (
    "features",
    "val",
    "pool",
    "seeds",
    "none",
    "room",
    "gain",
    "95 %",
    "share",
    "used",
    "unguarded",
    "precision",
    "prior",
)
PROFILE = {"ood": "consistent + 30 % of no class"}


class Rows:
    """Tunings by what tells them apart."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines: dict[str, dict[int, Line]] = defaultdict(dict)
        self.pools: dict[tuple, dict[str, set[str]]] = defaultdict(dict)
        for line in lines:
            name = self._name(line, line["what"], line["profile"], line["options"])
            self.lines[name][line["seed"]] = line
            if line["what"] == "pool":
                setting = (line["metric"], line["val"], line["features"], line["steps"])
                variant = json.dumps(line["options"], sort_keys=True)
                self.pools[setting].setdefault(variant, set()).add(line["profile"])

    @staticmethod
    def _name(line: Line, what: str, profile: str, options: dict) -> str:
        own = [line[name] for name in ("features", "val", "metric", "steps")]
        return json.dumps([*own, what, profile, options], sort_keys=True)

    def of(self, setting: tuple, what: str, profile: str, options: dict) -> dict[int, Line]:
        """Return seed -> line."""
        metric, val, features, steps = setting
        line = {"features": features, "val": val, "metric": metric, "steps": steps}
        return self.lines.get(self._name(line, what, profile, options), {})


def print_tables(lines: list[Line]) -> None:
    """Print a table for each metric, what they say of the bars, and the ablation."""
    rows = Rows(lines)
    found = []
    for metric in dict.fromkeys(setting[0] for setting in rows.pools):
        print(f"\n**{metric}**\n")
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for setting in sorted(own for own in rows.pools if own[0] == metric):
            for profile in sorted(rows.pools[setting].get("{}", ()), key=ORDER.index):
                row = summary(rows, setting, profile, {})
                if row["seeds"]:
                    found.append((setting, profile, row))
                    print(_row(setting, profile, row))
    _print_bars(found)
    _print_trials(found)
    _print_ablation(rows)


def summary(rows: Rows, setting: tuple, profile: str, options: dict) -> Line:
    """Return what the seeds that all three tunings have say of a setting."""
    none = rows.of(setting, "none", "", {})
    oracle = rows.of(setting, "oracle", "consistent" if profile == "ood" else profile, {})
    pool = rows.of(setting, "pool", profile, options)
    seeds = sorted(set(none) & set(oracle) & set(pool))

    def figures(of: dict[int, Line]) -> list[float]:
        return [100 * of[seed]["test"]["after"][setting[0]] for seed in seeds]

    start, best, reached = figures(none), figures(oracle), figures(pool)
    return {
        "seeds": len(seeds),
        "none": start,
        "room": [high - low for high, low in zip(best, start, strict=True)],
        "gain": [high - low for high, low in zip(reached, start, strict=True)],
        "pool": [pool[seed]["pool"] for seed in seeds],
        "tried": [
            100 * pool[seed]["pool"]["tried"][setting[0]] - 100 * none[seed]["test"]["balanced"][setting[0]]
            for seed in seeds
            if pool[seed]["pool"]["tried"] is not None
        ],
    }


def _row(setting: tuple, profile: str, row: Line) -> str:
    _, val, features, _ = setting
    room, gain = statistics.mean(row["room"]), statistics.mean(row["gain"])
    share = f"{gain / room:.0%}".replace("%", " %") if room >= BIG_ROOM else "-"
    cells = [
        _features(setting),
        val,
        PROFILE.get(profile, profile),
        row["seeds"],
        _spread(row["none"]),
        _spread(row["room"], sign=True),
        _spread(row["gain"], sign=True),
        _interval(row["gain"]),
        share,
        f"{sum(own['helps'] for own in row['pool'])}/{row['seeds']}",
        f"{statistics.mean(row['tried']):+.2f}" if row["tried"] else "-",
        f"{_mean(row, 'estimated_precision')} / {_mean(row, 'true_precision')}",
        _mean(row, "prior_error"),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _features(setting: tuple) -> str:
    _, _, features, steps = setting
    return features if steps == 5000 else f"{features} ({steps} steps)"


def _spread(values: list[float], *, sign: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if sign else ''}.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _interval(differences: list[float]) -> str:
    """Return the 95 % interval of a mean of paired differences by Student's t."""
    count, mean = len(differences), statistics.mean(differences)
    if count < 2:
        return "-"
    half = float(student.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return f"[{mean - half:+.2f}, {mean + half:+.2f}]"


def _mean(row: Line, name: str) -> str:
    """Return the mean of a figure over the seeds that have one."""
    values = [own[name] for own in row["pool"] if own[name] is not None]
    return f"{statistics.mean(values):.3f}" if values else "-"


def _print_bars(found: list[tuple[tuple, str, Line]]) -> None:
    means = [
        (setting, profile, statistics.mean(row["room"]), statistics.mean(row["gain"]))
        for setting, profile, row in found
    ]
    big = [own for own in means if own[2] >= BIG_ROOM]
    met = [own for own in big if own[3] >= BAR_SHARE * own[2]]
    lost = [own for own in means if own[3] < BAR_LOSS]
    print(f"\nSettings: {len(means)}. Room of {BIG_ROOM:g} point or more: {len(big)}; half of it realised: {len(met)}:")
    for setting, profile, room, gain in met:
        print(f"- {setting[0]}, {_features(setting)}, {setting[1]} val, {profile}: {gain:+.2f} of {room:+.2f}")
    print(f"\nLoss of more than {-BAR_LOSS:g} points: {len(lost)}:")
    for setting, profile, _, gain in lost:
        print(f"- {setting[0]}, {_features(setting)}, {setting[1]} val, {profile}: {gain:+.2f}")


def _print_trials(found: list[tuple[tuple, str, Line]]) -> None:
    """Print what the trial decided, beside what its heads then were on test."""
    print("\n| tuned for | in truth, heads with the pool are | trials | let in | mean error of the trial |")
    print("|---|---|---|---|---|")
    for metric in dict.fromkeys(setting[0] for setting, _, _ in found):
        trials = [
            (gain, pool)
            for setting, _, row in found
            if setting[0] == metric
            for gain, pool in zip(row["tried"], (own for own in row["pool"] if own["tried"]), strict=True)
        ]
        for name, low, high in (
            (f"better by {-BAR_LOSS:g} points", -BAR_LOSS, float("inf")),
            ("about the same", BAR_LOSS, -BAR_LOSS),
            (f"worse by {-BAR_LOSS:g} points", -float("inf"), BAR_LOSS),
        ):
            own = [(gain, pool) for gain, pool in trials if low <= gain < high]
            if own:
                error = statistics.mean(100 * pool["standard_error"] for _, pool in own)
                helps = sum(pool["helps"] for _, pool in own)
                print(f"| {metric} | {name} | {len(own)} | {helps} | {error:.2f} |")


def _print_ablation(rows: Rows) -> None:
    """Print what each option changes, where it was run, on the seeds where it was."""
    for setting, variants in rows.pools.items():
        others = [variant for variant in variants if variant != "{}"]
        if not others:
            continue
        profiles = sorted(variants[others[0]], key=ORDER.index)
        print(f"\n**Options** ({_features(setting)}, {setting[0]}, {setting[1]} val a class)\n")
        print("| option | " + " | ".join(f"{own}: gain | unguarded | used | precision" for own in profiles) + " |")
        print("|---" * (1 + 4 * len(profiles)) + "|")
        for variant in ["{}", *others]:
            options = json.loads(variant)
            cells = [", ".join(f"{name} = {value}" for name, value in options.items()) or "as it comes"]
            for profile in profiles:
                ran = [set(rows.of(setting, "pool", profile, json.loads(own))) for own in others]
                seeds = set.intersection(*filter(None, ran))  # the same for all options
                cells += _option_cells(rows, setting, profile, options, seeds)
            print("| " + " | ".join(cells) + " |")


def _option_cells(rows: Rows, setting: tuple, profile: str, options: dict, seeds: set[int]) -> list[str]:
    kept = Rows([line for of_seed in rows.lines.values() for seed, line in of_seed.items() if seed in seeds])
    row = summary(kept, setting, profile, options)
    if not row["seeds"]:
        return ["-"] * 4
    return [
        f"{statistics.mean(row['gain']):+.2f}",
        f"{statistics.mean(row['tried']):+.2f}" if row["tried"] else "-",
        f"{sum(own['helps'] for own in row['pool'])}/{row['seeds']}",
        _mean(row, "true_precision"),
    ]
