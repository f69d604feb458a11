"""The verbs in the order in which a person needs them, each with examples: what `selmix --help` shows.

Every example runs: tests/test_help.py takes it from the help text and tries it on small data.
"""

from rich.markup import escape

LOOK, TUNE, DEPLOY, TRAIN = "Look", "Tune a head", "Use a head", "Train a backbone"

# verb -> (panel, examples)
GUIDE: dict[str, tuple[str, list[str]]] = {
    "demo": (LOOK, ["selmix demo", "selmix demo --metric harmonic_mean --out runs/harmonic"]),
    "check": (LOOK, ["selmix check my_images", "selmix check my_images --out findings.csv"]),
    "metrics": (LOOK, ["selmix metrics", "selmix metrics --json"]),
    "backbones": (LOOK, ["selmix backbones", "selmix backbones 'resnet1*'"]),
    "recipes": (LOOK, ["selmix recipes ls", "selmix recipes show demo"]),
    "doctor": (LOOK, ["selmix doctor", "selmix doctor --json"]),
    "finetune": (
        TUNE,
        [
            "selmix finetune --features features.npz --metric min_recall --out runs/a",
            "selmix finetune --backbone shipped:fashion_resnet32 --data my_images --metric mean_recall --out runs/b",
            "selmix finetune --features features.npz --metric 'min(recall[cat], recall[dog])' --out runs/c",
            "selmix finetune --features features.npz --metric macro_f1 --subject-to 'coverage >= 0.3/k' --out runs/d",
            "selmix finetune --features features.npz --metric min_recall,mean_recall --seeds 0..1 --out runs/e",
        ],
    ),
    "compare": (
        TUNE,
        [
            "selmix compare --features features.npz --metric min_recall --methods crt_val,selmix --out runs/f",
            "selmix compare --features features.npz --metric mcc --methods knn,selmix --seeds 0..1 --out runs/g",
        ],
    ),
    "report": (TUNE, ["selmix report runs/a"]),
    "extract": (TUNE, ["selmix extract --backbone shipped:fashion_resnet32 --data my_images --out features"]),
    "predict": (
        DEPLOY,
        [
            "selmix predict runs/b new_images --out predictions.csv",
            "selmix predict runs/b 'new_images/*.jpg' --top 2 --calibrated",
        ],
    ),
    "evaluate": (DEPLOY, ["selmix evaluate runs/b", "selmix evaluate runs/b --data my_images --split val --json"]),
    "export": (
        DEPLOY,
        [
            "selmix export runs/b --format onnx --out b.onnx",
            "selmix export runs/b --format timm --out b.safetensors",
        ],
    ),
    "run": (
        TRAIN,
        [
            "selmix run my_recipe.toml --out runs/h",
            "selmix run my_recipe.toml finetune.metric=macro_f1 stage1.epochs=1 --out runs/i",
            "selmix run runs/a/recipe.toml --out runs/again",
        ],
    ),
    "train": (
        TRAIN,
        [
            "selmix train my_recipe.toml --out runs/stage1",
            "selmix train my_recipe.toml stage1.epochs=1 seed=1 --out runs/short",
        ],
    ),
}
RECIPES = {
    "ls": ["selmix recipes ls", "selmix recipes ls --json"],
    "show": ["selmix recipes show demo", "selmix recipes show cifar10_lt_if100/cross_entropy"],
    "cp": ["selmix recipes cp cifar10_lt_if100/cross_entropy mine"],
    "validate": ["selmix recipes validate", "selmix recipes validate my_recipe.toml"],
}


def epilog(examples: list[str]) -> str:
    """Return the end of a help text: an example a line."""
    return "\n\n".join(["Examples:", *(escape(example) for example in examples)])
