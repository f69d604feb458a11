"""What each of two processes does in tests/test_torchrun.py: real collectives, then the command line, several times."""

import json
import sys
from pathlib import Path

import torch

from selmix.agreement import all_texts
from selmix.commands import app, console
from selmix.ranks import join_ranks


def run(*words: str) -> int:
    """Return the exit code of the command line."""
    try:
        code = app(list(words), prog_name="selmix", standalone_mode=False)
    except SystemExit as error:
        code = error.code
    return code or 0


def main(folder: Path) -> None:
    """Say what came of it in a file for each rank."""
    console._GRACE = 0
    ranks = join_ranks()
    own = torch.arange(3.0) + 10 * ranks.rank
    before, everyone = ranks.shares(torch.tensor([ranks.rank + 1, 5]))
    said = {
        "count": ranks.count,
        "total": ranks.total(own.clone()).tolist(),
        "gathered": ranks.gathered(own[: 2 - 2 * ranks.rank]).tolist(),
        "flags": ranks.gathered(torch.tensor([ranks.rank == 1])).tolist(),
        "first": ranks.first(own.clone()).tolist(),
        "shares": [before.tolist(), everyone.tolist()],
        "texts": all_texts("x" * ranks.rank, ranks),
    }
    request = ["finetune", "--features", str(folder / "f.npz"), "--metric", "mean_recall", "--quiet"]
    short = ["steps=20", "start_steps=20", "folds=3"]
    said["codes"] = {
        "one": run(*request, *short, "--out", str(folder / "one")),
        "again": run(*request, *short, "--out", str(folder / "one")),
        "seeds": run(*request, *short, "--out", str(folder / "seeds"), "--seeds", "0,1"),
        "diagnose": run(*request, "--out", str(folder / "no"), "--diagnose"),
        "compare": run("compare", *request[1:5], "--out", str(folder / "no")),
        # there for the first rank only
        "lost": run(*request[:2], str(folder / f"only{ranks.rank}.npz"), *request[3:], "--out", str(folder / "no")),
        "unmet": run(*request, *short, "--out", str(folder / "unmet"), "--subject-to", "recall[2] >= 0.999"),
    }
    training = ["train", str(folder / "recipe.toml"), "--quiet"]
    said["codes"] |= {
        "train": run(*training, "--out", str(folder / "trained")),
        "train_again": run(*training, "--out", str(folder / "trained")),
        "search": run(*training, "val_fraction=0.5", "autobalance.start_epoch=0", "--out", str(folder / "no")),
        "diverged": run(*training, "stage1.learning_rate=1e30", "--out", str(folder / "no")),
    }
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
