"""How well gains predict what steps do, in words."""


def diagnosis_lines(diagnosis: dict[str, dict[str, dict[str, float | None]]]) -> list[str]:
    """Return how well the gains predicted what single steps did."""
    lines = []
    for head, kinds in diagnosis.items():
        for kind, step in (("soft", "small steps, mean probabilities"), ("hard", "large steps, counted predictions")):
            pearson, spearman, sign = (
                "-" if value is None else f"{value:.2f}"
                for value in (kinds[kind][name] for name in ("pearson", "spearman", "sign_agreement"))
            )
            figures = f"correlation {pearson}, of ranks {spearman}, same sign {sign}"
            lines.append(f"gains at the {head} head, {step}: {figures}")
    return lines
