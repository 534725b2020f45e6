"""The model card: what a model is and how often it is right, as Markdown with the front matter of the hub."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embernet.errors import InputError
from embernet.evaluation.routing import routing_rows
from embernet.training.run_checkpoint import RunCheckpoint

_TAGS = ("bitnet", "ternary", "mixture-of-experts", "vision-language")
_NO_LIMITS = "Nothing is known about anything but the questions above: what else it is shown, it may answer at random."


def model_card(
    model: Mapping[str, Any],
    report: Mapping[str, Any],
    run: RunCheckpoint | None = None,
    limits: str | None = None,
    license_id: str | None = None,
) -> str:
    """The text of a card.

    model: what `embernet info --json` says of it. report: of `embernet eval`, in which it is either of the two models.
    run: what it was trained by. limits: Markdown, in plain words. InputError if the report is of other models, or if
    values are missing.
    """
    try:
        parts = [
            _front_matter(license_id),
            f"# {_plain(model['name'])}\n\nA ternary vision-language model of the {_plain(model['family'])} family, "
            f"made with embernet. This page was generated from measurements.",
            f'    embernet ask {_option(model)}image.png "What is in the image?"' if model["kind"] == "bundle" else "",
            "## What it is\n\n" + _what_it_is(model),
            "## How often it is right\n\n" + _accuracy(model, report),
            "## Which experts answer what\n\n" + _routing(_result(model, report)["routing"]),
            "" if run is None else "## Training\n\n" + _training(run),
            "## Limits\n\n" + (limits or _NO_LIMITS).strip(),
        ]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"the report lacks what a card needs ({type(error).__name__}: {error})") from None
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(license_id: str | None) -> str:
    # Texts in JSON are texts in YAML.
    lines = ["library_name: embernet", "pipeline_tag: image-text-to-text", f"tags: {json.dumps(_TAGS)}"]
    if license_id is not None:
        lines.insert(0, f"license: {json.dumps(license_id)}")
    return "\n".join(["---", *lines, "---"])


def _option(model: Mapping[str, Any]) -> str:
    return f"-m {Path(model['path']).name} "


def _what_it_is(model: Mapping[str, Any]) -> str:
    counts, quantizer, levels = model["parameters"], model["quantizer"], model["quantizer"]["levels"]
    weights = max(1, sum(levels.values()))
    rows = [
        ("parameters", f"{counts['total']:,}"),
        ("of these ternary", f"{counts['ternary']:,}"),
        ("parameters at work on a token, the image side included", f"{counts['active']:,}"),
        ("weights that are -1, 0, +1", ", ".join(f"{count / weights:.1%}" for count in levels.values())),
        ("quantizer", f"{quantizer['weights']}, {quantizer['activation_bits']}-bit activations"),
        ("bytes", f"{model['bytes']['total']:,}"),
    ]
    if model["sha256"] is not None:
        rows.append(("sha256 of its files' names and hashes", model["sha256"]))
    rows += [(f"precision of the {part}", value) for part, value in (model["precision"] or {}).items()]
    return _table(("", ""), rows)


def _result(model: Mapping[str, Any], report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's own part of a report."""
    for result in (report, report["against"]):
        if result is not None and _is_same(model, result["model"]):
            return result
    raise InputError(f"the report is of another model (found {report['model']['path']}, expected {model['path']})")


def _is_same(model: Mapping[str, Any], evaluated: Mapping[str, Any]) -> bool:
    if model["sha256"] is not None:
        return bool(model["sha256"] == evaluated["sha256"])
    return Path(model["path"]).resolve() == Path(evaluated["path"]).resolve()


def _accuracy(model: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    own, data = _result(model, report), report["data"]
    total = own["total"]
    other = None if report["against"] is None else report if own is report["against"] else report["against"]
    lines = [
        f"{total['count']:,} questions about {report['num_samples']:,} images ({_plain(data['name'])}, split "
        f"{data['split']}), exact match, with Wilson's {report['confidence']:.0%} intervals. "
        "*Without the image* is the most common training answer to the same prompt."
    ]
    header = ["domain", "answers", "right", "interval", "without the image"]
    if total["vqa_count"]:
        header.append("VQA accuracy")
    if other is not None:
        header.append(f"{other['model']['kind']} {_plain(other['model']['name'])}")
        test = report["against"]["comparison"]
        header.append(f"p ({test['test']})")
    rows = []
    for domain in (None, *own["domains"]):
        score = total if domain is None else own["domains"][domain]
        low, high = score["accuracy_interval"]
        row = [domain or "all", f"{score['count']:,}", _percent(score["accuracy"]), f"{low:.1%} to {high:.1%}"]
        row.append(_percent(score["accuracy_without_image"]))
        if total["vqa_count"]:
            row.append(_percent(score["vqa_accuracy"]))
        if other is not None:
            row.append(_percent((other["total"] if domain is None else other["domains"][domain])["accuracy"]))
            row.append(f"{(test['total'] if domain is None else test['domains'][domain])['p']:.2g}")
        rows.append(row)
    lines.append(_table(header, rows))
    if report["skipped"] or own["unanswered"]:
        lines.append(
            f"Examples that could not be used: {len(report['skipped'])}. Questions that the model could not take, "
            f"counted as wrong: {len(own['unanswered'])}."
        )
    return "\n\n".join(lines)


def _routing(routing: Mapping[str, Any]) -> str:
    if not routing["counts"]:
        return "Unknown: there were no answers."
    rows = [(expert, *map(_percent, shares)) for expert, shares in routing_rows(routing)]
    bits = ", ".join(f"{value:.2f}" for value in routing["mutual_information_bits"])
    dead = [f"{expert} (layer {layer})" for layer, names in enumerate(routing["dead_experts"]) for expert in names]
    return (
        "Shares of the experts in the last layer, by the domain of the question:\n\n"
        + _table(("expert", *routing["domains"]), rows)
        + f"\n\nAn expert says {bits} bits (layer by layer, the first first) of the "
        f"{routing['domain_entropy_bits']:.2f} bits that name the domain. Never chosen: {', '.join(dead) or 'none'}."
    )


def _training(run: RunCheckpoint) -> str:
    config, state = run.config, run.state
    rows = [
        ("stage", str(config.stage)),
        ("steps", f"{state.global_step:,} of {run.global_batch} examples"),
        ("examples", f"{run.num_examples:,}"),
        ("tokens", f"{state.tokens:,}"),
        ("learning rate", f"{config.learning_rate:g}, {config.schedule}"),
        ("optimiser", config.optimizer),
        ("supervision of the experts", f"{config.expert_supervision:g}"),
        ("mean loss", f"{state.average:.4f}"),
        ("best loss", "-" if state.best_loss is None else f"{state.best_loss:.4f}"),
        ("seed", str(config.seed)),
        ("hours", f"{state.train_seconds / 3600:.2f}"),
    ]
    return _table(("", ""), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _plain(text: str) -> str:
    """Text of a file, without what would be markup of a table or a line of its own."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
