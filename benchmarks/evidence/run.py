"""The evidence: every setting, number of validation images and metric, every method of the ladder, five seeds.

    python benchmarks/evidence/run.py SETTING ... [--vals 500,20,250,50] [--parts averages,loops] [--seeds 0..4]

For each setting of settings.toml: `selmix train` where a backbone is trained here, `selmix extract`, and `selmix
compare` for each number of validation images a class and each part. All of them go on where they were interrupted,
or are done already, and are left alone then; runs lie in runs/evidence/SETTING. What the tables are made from comes to
results/SETTING/valN-PART.json: the figures of every method, metric and seed, the summary with its intervals, the
commands, the digests and the machine. The data are those of data/ (unpack.py); splits are ids (draw.py).
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOOPS = ["uniform_mixup", "resampling", "greedy", "selmix"]
PARTS: dict[str, tuple[list[str], list[str]]] = {  # metrics, and the methods that are left out
    "main": (["min_recall", "mean_recall", "harmonic_mean", "macro_f1"], LOOPS[:-1]),
    "more": (["geometric_mean", "q_mean", "mcc", "kappa"], LOOPS[:-1]),
    "loops": (["min_recall"], []),
}
DIGITS = 6


def selmix(*words: str) -> str:
    """Run a command of selmix at the root of the checkout, and return it as somebody types it."""
    command = shlex.join(["selmix", *words])
    print(f"$ {command}", flush=True)
    subprocess.run([sys.executable, "-m", "selmix", *words], cwd=ROOT, check=True)
    return command


def backbone_of(setting: dict[str, Any], folder: Path) -> tuple[str, list[str]]:
    """Return the word for --backbone and what was run for it."""
    if "backbone" in setting:
        return setting["backbone"], []
    out = folder / "backbone"
    words = ["train", *setting["train"], "--out", str(out), "--quiet"]
    if not (ROOT / out / "model.safetensors").is_file():
        selmix(*words, *["--resume"] * (ROOT / out / "recipe.toml").is_file())
    return str(out), [shlex.join(["selmix", *words])]


def features_of(setting: dict[str, Any], folder: Path) -> tuple[Path, list[str]]:
    """Return where the features are, and what was run for them."""
    backbone, commands = backbone_of(setting, folder)
    place = folder / "features"
    data = (HERE / f"data/{setting['data']}.toml").relative_to(ROOT)
    words = ["--backbone", backbone, *setting.get("options", []), "--data", str(data), "--dtype", "float32"]
    return place, [*commands, selmix("extract", *words, "--out", str(place), "--quiet")]


def rounded(content: Any) -> Any:
    """Return a document with rounded numbers."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, DIGITS) if isinstance(content, float) else content


def methods_of(part: str) -> list[str]:
    """Return the methods of a part."""
    from selmix.compare import ABOUT

    return LOOPS if part == "loops" else [name for name in ABOUT if name not in PARTS[part][1]]


def compared(name: str, setting: dict[str, Any], val: int, part: str, seeds: str) -> None:
    """Write what a comparison found, if that is not there."""
    result = HERE / f"results/{name}/val{val}-{part}.json"
    if result.is_file():
        return
    folder = Path("runs/evidence") / name
    features, commands = features_of(setting, folder)
    out = folder / f"val{val}-{part}"
    metrics = PARTS[part][0] + (setting.get("extra", []) if part == "main" else [])
    words = ["--features", str(features), "--metric", ",".join(metrics), "--methods", ",".join(methods_of(part))]
    words += ["--seeds", seeds, "--val-per-class", str(val), "--out", str(out)]
    commands.append(selmix("compare", *words, "--overwrite", "--quiet"))
    found = json.loads((ROOT / out / "compare.json").read_text())
    kept = {key: found[key] for key in ("version", "digests", "val_samples", "test_samples", "left_out", "rows")}
    content = {"setting": name, "about": setting["about"], "val": val, "part": part, "commands": commands}
    content |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS')} thread"}
    result.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(rounded(row)) for row in kept.pop("rows")]
    body = json.dumps(content | kept | {"summary": rounded(found["summary"])}, indent=1)
    result.write_text(body[:-2] + ',\n "rows": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = tomllib.loads((HERE / "settings.toml").read_text())
    parser.add_argument("settings", nargs="*", choices=known, metavar="SETTING")
    parser.add_argument("--vals", default="500,20,250,50")
    parser.add_argument("--parts", default="main")
    parser.add_argument("--seeds", default="0..4")
    words = parser.parse_args()
    for part in words.parts.split(","):
        for val in map(int, words.vals.split(",")):
            for name in words.settings or known:
                if val in known[name].get("vals", [val]):
                    compared(name, known[name], val, part, words.seeds)


if __name__ == "__main__":
    main()
