"""``--json``: everything as one JSON document with a stable schema; docs/compare_json.md says what each name means."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compressbench.comparing.answers import Accuracies
from compressbench.comparing.comparison import Calibrated, Comparison
from compressbench.comparing.confidence import AtThreshold, Threshold
from compressbench.comparing.gallery import Flip
from compressbench.comparing.gate import Verdict
from compressbench.comparing.groups import Answered, Group
from compressbench.comparing.intervals import Estimate
from compressbench.comparing.oddities import Finding
from compressbench.comparing.shapes import Shapes, Sureness
from compressbench.paths import write_named
from compressbench.showing.account import Account, Attack, Expense, Layers, by_question, finite
from compressbench.showing.figures import Figure, figures

SCHEMA = 1
"""Changes when a name is dropped or changes its meaning; that one is added changes nothing."""


def write_document(account: Account, path: Path) -> Path:
    """Writes the document (see ``document``).

    Raises:
        UserError: it can't be written.
    """
    text = json.dumps(document(account), ensure_ascii=False, allow_nan=False, indent=1)
    return write_named(path, text.encode("utf-8", "replace").decode() + "\n")


def document(account: Account) -> dict[str, Any]:
    """The document as plain data: what is no number is null. Every name is always there, whatever is known."""
    first, made = account.comparisons[0], account.provenance
    rows = figures(account)
    return {
        "schema": SCHEMA,
        "reference": _artefact(account, 0, first.kinds[0].name, first.kinds[0].words),
        "data": {
            "name": first.data,
            "n": first.n,
            "labelled": first.labelled,
            "classes": list(account.asked.classes),
            "attributes": list(account.asked.groups),
        },
        "level": first.level,
        "epsilon": first.epsilon,
        "notes": list(account.notes),
        "provenance": {
            "versions": made.versions,
            "machine": made.machine,
            "data": made.data,
            "command": made.command,
            "seed": made.seed,
            "seconds": made.seconds,
        },
        "comparisons": [_comparison(account, place, rows) for place in range(len(account.comparisons))],
        "cost": _cost(account),
        "fragility": {
            "tested": bool(account.fragility and account.fragility.attacks),
            "words": list(account.fragility.words) if account.fragility else [],
            "attacks": [_attack(account, a) for a in account.fragility.attacks] if account.fragility else [],
        },
    }


def _artefact(account: Account, place: int, kind: str, told_by: str) -> dict[str, Any]:
    made = account.provenance
    return {
        "name": account.names[place],
        "form": account.forms[place],
        "scores": kind,
        "scores_told_by": told_by,
        "preparation": made.preparations[place] if made.preparations else "",
        "key": made.keys[place] if made.keys else "",
    }


def _comparison(account: Account, place: int, rows: Sequence[Figure]) -> dict[str, Any]:
    found = account.comparisons[place]
    moved = found.changed
    return {
        "other": _artefact(account, place + 1, found.kinds[1].name, found.kinds[1].words),
        "words": [
            {"question": question, "sentences": list(sentences)}
            for question, sentences in by_question(account, place).items()
        ],
        "figures": {row.name: _figure(row, place) for row in rows},
        "counts": {
            "changed": int(moved.changed.sum()),
            "right_to_wrong": int(moved.right_to_wrong.sum()),
            "wrong_to_right": int(moved.wrong_to_right.sum()),
            "wrong_to_another": int(moved.wrong_to_another.sum()),
            "unlabelled": int(moved.unlabelled.sum()),
            "silent": int(moved.silent.sum()),
            "without_numbers": found.distances.left_out,
        },
        "accuracy": _accuracy(found.accuracy),
        "kl_of_the_most": finite(found.distances.kl_of_the_most),
        "classes": [_group(g) for g in found.by_class],
        "answered": [_answered(a) for a in found.by_answer],
        "groups": {name: [_group(g) for g in each] for name, each in found.by_group.items()},
        "calibration": _calibration(found),
        "thresholds": [_threshold(t) for t in found.thresholds],
        "shapes": _shapes(found.shapes),
        "floors": [
            {
                "name": f.name,
                "loyalty": _estimate(f.loyalty),
                "probability_loyalty": _estimate(f.probability_loyalty),
            }
            for f in found.floors
        ],
        "findings": [_finding(account, f) for f in found.findings],
        "flips": [_flip(f, account.asked.texts) for f in found.flips],
        "gate": [_verdict(v) for v in account.verdicts_of(place)],
        "layers": _layers(account.layers_of(place)),
    }


def _figure(row: Figure, place: int) -> dict[str, Any]:
    before, after = row.values[0], row.values[place + 1]
    return {
        "reference": _estimate(before),
        "other": _estimate(after),
        "unit": row.unit,
        "better": row.better,
        "note": row.notes[place + 1],
    }


def _estimate(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"value": None, "low": None, "high": None, "n": 0}
    return {
        "value": finite(found.value),
        "low": finite(found.low),
        "high": finite(found.high),
        "n": found.n,
    }


def _accuracy(found: Accuracies | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "before": _estimate(found.before),
        "after": _estimate(found.after),
        "drop": _estimate(found.drop),
        "lost": found.test.lost,
        "won": found.test.won,
        "p": finite(found.test.p),
        "mid_p": finite(found.test.mid_p),
        "margin": found.margin,
        "verdict": found.verdict,
        "lower": found.lower,
        "needed": finite(found.needed),
    }


def _group(found: Group) -> dict[str, Any]:
    return {
        "name": found.name,
        "n": found.n,
        "before": finite(found.before),
        "after": finite(found.after),
        "change": _estimate(found.change),
        "beyond": _estimate(found.beyond),
        "lost": found.lost,
        "won": found.won,
        "p": finite(found.p),
        "p_holm": finite(found.p_holm),
        "p_bh": finite(found.p_bh),
        "p_beyond_holm": finite(found.p_beyond_holm),
        "rare": found.rare,
        "pays": found.pays,
        "pays_more": found.pays_more,
        "detectable": finite(found.detectable),
    }


def _answered(found: Answered) -> dict[str, Any]:
    return {
        "name": found.name,
        "before": found.before,
        "after": found.after,
        "kept": _estimate(found.kept),
        "lost": found.lost,
        "won": found.won,
        "p": finite(found.p),
        "p_holm": finite(found.p_holm),
        "p_bh": finite(found.p_bh),
        "rare": found.rare,
    }


def _calibration(found: Comparison) -> dict[str, Any] | None:
    if found.calibrated is None:
        return None
    return {"reference": _calibrated(found.calibrated[0]), "other": _calibrated(found.calibrated[1])}


def _calibrated(found: Calibrated) -> dict[str, Any]:
    fitted = found.temperature
    return {
        "error": finite(found.error),
        "adaptive": finite(found.adaptive),
        "nll": finite(found.loss),
        "brier": finite(found.brier),
        "temperature": None
        if fitted is None
        else {
            "value": finite(fitted.value),
            "at_bound": fitted.at_bound,
            "nll_before": finite(fitted.loss_before),
            "nll_after": finite(fitted.loss_after),
            "error_before": finite(fitted.error_before),
            "error_after": finite(fitted.error_after),
            "fitted_on": fitted.fitted_on,
            "n": fitted.n,
        },
    }


def _threshold(found: Threshold) -> dict[str, Any]:
    return {
        "threshold": found.threshold,
        "before": _at(found.before),
        "after": _at(found.after),
        "coverage_change": _estimate(found.coverage_change),
    }


def _at(found: AtThreshold) -> dict[str, Any]:
    return {"coverage": _estimate(found.coverage), "error": _estimate(found.error)}


def _shapes(found: Shapes | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "confidence_edges": list(found.edges),
        "reference": _sureness(found.reference),
        "other": _sureness(found.other),
        "kl_edges": list(found.kl_edges),
        "kl": list(found.kl),
    }


def _sureness(found: Sureness) -> dict[str, Any]:
    return {
        "counts": list(found.counts),
        "mean": [finite(x) for x in found.mean],
        "right": list(found.right),
    }


def _finding(account: Account, found: Finding) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "words": found.words,
        "value": finite(found.value),
        "n": found.n,
        "severity": found.severity,
        "rows": list(found.rows),
        "ids": [account.id_of(r) for r in found.rows],
        "classes": list(found.classes),
    }


def _flip(found: Flip, texts: Callable[[int], str] | None) -> dict[str, Any]:
    return {
        "row": found.row,
        "id": found.id,
        "text": texts(found.row) if texts else None,
        "kind": found.kind,
        "label": found.label,
        "reference": found.reference,
        "other": found.other,
        "reference_confidence": finite(found.reference_confidence),
        "other_confidence": finite(found.other_confidence),
        "weight": finite(found.weight),
    }


def _verdict(found: Verdict) -> dict[str, Any]:
    return {
        "condition": str(found.condition),
        "figure": found.condition.name,
        "sign": found.condition.sign,
        "limit": found.condition.limit,
        "kept": found.kept,
        "sure": found.sure,
        "words": found.words,
    }


def _layers(found: Layers | None) -> dict[str, Any]:
    return {
        "words": list(found.words) if found else [],
        "n": found.n if found else 0,
        "layers": [
            {"name": x.name, "form": x.form, "made": finite(x.made), "arrived": finite(x.arrived)}
            for x in (found.layers if found else ())
        ],
        "restored": [
            {
                "layers": list(r.layers),
                "accuracy": _estimate(r.accuracy),
                "loyalty": _estimate(r.loyalty),
            }
            for r in (found.restored if found else ())
        ],
    }


def _cost(account: Account) -> dict[str, Any]:
    cost = account.cost
    return {
        "words": list(cost.words) if cost else [],
        "machine": cost.machine if cost else "",
        "artefacts": [
            _expense(name, e) for name, e in zip(account.names, cost.expenses if cost else (), strict=False)
        ],
    }


def _expense(name: str, found: Expense) -> dict[str, Any]:
    return {
        "name": name,
        "runtime": found.runtime,
        "bytes": found.bytes,
        "peak_memory": found.peak_memory,
        "executed": found.executed,
        "note": found.note,
        "timings": [
            {
                "batch": t.batch,
                "latency": _estimate(t.latency),
                "throughput": _estimate(t.throughput),
                "speedup": _estimate(t.speedup),
                "note": t.note,
            }
            for t in found.timings
        ],
    }


def _attack(account: Account, found: Attack) -> dict[str, Any]:
    many = len(account.names)
    accuracy, loyalty = found.accuracy or (None,) * many, found.loyalty or (None,) * many
    verdicts = found.verdicts or ("",) * many
    return {
        "name": found.name,
        "note": found.note,
        "artefacts": [
            {"name": n, "accuracy": _estimate(a), "loyalty": _estimate(b), "verdict": v}
            for n, a, b, v in zip(account.names, accuracy, loyalty, verdicts, strict=True)
        ],
    }
