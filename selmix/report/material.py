"""What there is to look at and how to repeat the run: images that changed, the unlabeled pool, command and versions."""

import tomllib
from typing import Any

from markupsafe import Markup

from selmix.audit.table import NO_CLASS
from selmix.audit.words import headline, remedy
from selmix.report.command import command_of
from selmix.report.reading import Run
from selmix.report.section import TRACKED, Section
from selmix.report.tables import Cell, Row, details, figure, table
from selmix.report.words import count, percent


def images(run: Run) -> Section:
    """Return the test samples whose true class gained or lost most probability."""
    if run.document["optimistic"]:
        return Section("images", "Samples that changed most", "There is no test split, so none is shown.", Markup(""))
    parts, said = Markup(""), []
    for title, key in (("Most improved", "improved"), ("Most harmed", "harmed")):
        samples = run.samples["test"][key]
        if samples:
            move = [_probability(run, samples[0]["position"], head) for head in ("before", "after")]
            told = _told(run, samples[0]["position"])[0]
            said.append(f"the {title.lower()}, of class {told}, went from {percent(move[0])} to {percent(move[1])} %")
            pictures = any(own["picture"] for own in samples)
            shown = Markup("").join(_changed(run, own) for own in samples) if pictures else _changed_table(run, samples)
            parts += Markup("<h3>{}</h3>").format(title)
            parts += Markup('<div class="row few">{}</div>').format(shown) if pictures else figure(shown, label=title)
    lead = f"By the probability of the true class: {'; '.join(said)}." if said else "No sample changed."
    return Section("images", "Samples of test that changed most", lead, parts)


def _probability(run: Run, position: int, head: str) -> float:
    return float(run.record[f"test_{head}_of_truth"][position])


def _told(run: Run, position: int) -> list[str]:
    """Return the names of the true class, of that predicted before, and of that predicted after."""
    labels = [
        int(run.record[f"test_{name}"][position]) for name in ("labels", "before_predictions", "after_predictions")
    ]
    return [run.names[label] for label in labels]


def _changed(run: Run, sample: dict[str, Any]) -> Markup:
    position = sample["position"]
    truth, before, after = _told(run, position)
    moves = [percent(_probability(run, position, head)) for head in ("before", "after")]
    told = f"{before} → {after}" if before != after else f"{after} both times"
    caption = Markup("<strong>{}</strong><br>{} → {} %<br>{}").format(truth, *moves, told)
    alt = f"test image {sample['id']}: the probability of {truth} went from {' to '.join(moves)} %, predicted {told}"
    return _picture(sample, alt, caption)


def _changed_table(run: Run, samples: list[dict[str, Any]]) -> Markup:
    rows: list[Row] = []
    for own in samples:
        position = own["position"]
        moves = [_probability(run, position, head) for head in ("before", "after")]
        name = str(position) if own["id"] is None else own["id"]
        rows.append([name, *_told(run, position), *(Cell(percent(move), move) for move in moves)])
    columns = ["sample", "class", "predicted before", "predicted after", "its class before, %", "after, %"]
    return table(columns, [("", rows)], label="samples that changed most")


def _picture(sample: dict[str, Any], alt: str, caption: Markup, tone: str = "") -> Markup:
    if sample["picture"] is None:
        picture = Markup('<div class="gone">{}</div>').format(sample["id"] or "")
    else:
        picture = Markup('<img src="{}" alt="{}" title="{}">').format(sample["picture"], alt, sample["id"] or "")
    return Markup('<figure class="thumb {}" aria-label="{}">{}<figcaption>{}</figcaption></figure>').format(
        tone, alt, picture, caption
    )


def pool(run: Run) -> Section | None:
    """Return the audit of the pseudo-labels of the pool."""
    document = run.document["pseudo_labels"]
    if document is None:
        return None
    lead, *lines = headline(document, run.document["metric"])
    hint = remedy(document, run.document["support"]["val"])
    body = Markup("").join(Markup("<p>{}.</p>").format(_sentence(line)) for line in [*lines, *([hint] if hint else [])])
    body += Markup("<p>{}</p>").format(_meaning(document))
    body += figure(_pool_table(run, document), label="pseudo-labels of each class")
    truth = document["audit"]
    if truth:
        body += Markup("<p>{}</p>").format(
            "By the labels that somebody has for the pool, which served nothing but this audit: "
            f"{percent(truth['selected']['accuracy'])} % of the selected pseudo-labels are right, and "
            f"{percent(truth['found']['accuracy'])} % of all; {truth['of_no_class']:,} images are of no known class."
        )
    shown = run.samples["pool"]
    if shown:
        grid = Markup("")
        for own in shown:
            name = run.names[own["label"]]
            row = Markup("").join(_pseudo_labeled(run, sample, own["label"]) for sample in own["samples"])
            grid += Markup('<h4>{}</h4><div class="row">{}</div>').format(name, row)
        number = sum(len(own["samples"]) for own in shown)
        grid = Markup("<p>{}</p>").format("Of each class some, from the surest pseudo-label to the least sure.") + grid
        body += details(f"{count(number, 'image')} of the pool with their pseudo-labels", grid)
    return Section("pool", "The unlabeled pool", _sentence(lead) + ".", body)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _meaning(document: dict[str, Any]) -> str:
    text = (
        "Precision is the share of pseudo-labels that are right. It is estimated from labeled samples that the source "
        "has not learnt, for the class shares of the pool; surely (95 %) it is at least the lower bound."
    )
    if document["agreement"]:
        sources = " and ".join(document["weights"])
        text += f" The sources {sources} say the same of {percent(document['agreement']['overall'])} % of the pool."
    if document["misfit"]:
        share, chance = (percent(document["misfit"][key]) for key in ("share", "by_chance"))
        text += f" Of the predictions, {share} % fit no mixture of the known classes ({chance} % could be chance)."
    return text


def _pool_table(run: Run, document: dict[str, Any]) -> Markup:
    columns = [
        "class",
        "pseudo-labels",
        "selected",
        "precision, %",
        "at least",
        "trusted",
        "share of the pool, %",
        "95 % interval",
    ]
    columns += ["sources agree, %"] if document["agreement"] else []
    truth = document["audit"]
    if truth:
        columns += ["true images", "true share, %", "true precision of selected, %", "true recall of selected, %"]
    rows: list[Row] = []
    for label in run.order:
        own = document["classes"][label]
        low_high = own["prior_interval"]
        row = [own["name"], *(Cell(f"{own[key]:,}", own[key]) for key in ("found", "selected"))]
        row += [Cell(percent(own[key]), own[key]) for key in ("precision", "precision_lower")]
        row += ["yes" if own["trusted"] else "no", Cell(percent(own["prior"]), own["prior"])]
        row.append(f"{percent(low_high[0])} to {percent(low_high[1])}" if low_high else "–")
        if document["agreement"]:
            row.append(percent(document["agreement"]["by_class"][label]))
        if truth:
            row += [f"{truth['count'][label]:,}", percent(truth["prior"][label])]
            row += [percent(truth["selected"][key][label]) for key in ("precision", "recall")]
        rows.append(row)
    return table(columns, [("", rows)], label="pseudo-labels of each class", tall=len(rows) > TRACKED)


def _pseudo_labeled(run: Run, sample: dict[str, Any], label: int) -> Markup:
    truth = sample["truth"]
    sure = f"{percent(sample['confidence'])} %" + ("" if sample["selected"] else ", not selected")
    caption = Markup("{}").format(sure)
    if truth is not None:
        right = truth == label
        said = "right" if right else f"wrong: {run.names[truth] if truth >= 0 else NO_CLASS}"
        caption += Markup('<br><span class="{}">{}</span>').format("" if right else "wrong", said)
    alt = f"unlabeled image {sample['id']}, pseudo-label {run.names[label]}, confidence {sure}"
    return _picture(sample, alt, caption, "" if sample["selected"] else "aside")


def repeat(run: Run) -> Section:
    """Return the command, and what else the run depends on."""
    document = run.document
    recipe = tomllib.loads(run.recipe)
    return repeated(command_of(document["command"], recipe, len(run.names)), document, run.recipe)


def repeated(command: str, document: dict[str, Any], recipe: str) -> Section:
    """Return how to repeat what `command` did."""
    facts = Markup("")
    for title, content in (
        ("digests", document["digests"]),
        ("versions", document.get("versions") or {"selmix": document.get("version")}),
    ):
        rows: list[Row] = [[name, Cell(str(value), None, "text")] for name, value in content.items()]
        facts += Markup("<h3>{}</h3>").format(title) + table(["what", title], [("", rows)], label=title)
    seconds = document.get("seconds") or {}
    took = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if isinstance(value, float))
    lead = "The same command on the same files gives the same figures" + (f"; it took: {took}." if took else ".")
    body = Markup('<pre class="command"><code>{}</code></pre>').format(command) + facts
    if recipe:
        body += details("Every setting, as written in recipe.toml", Markup("<pre><code>{}</code></pre>").format(recipe))
    return Section("repeat", "How to repeat this", lead, body)
