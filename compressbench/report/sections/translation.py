"""What is said of the test sentences: BLEU with its interval, and what BLEU doesn't show."""

from __future__ import annotations

from compressbench.report.panels import Panel
from compressbench.report.section import Section, both, kept
from compressbench.report.states import Key, Pick, metric_table, of
from compressbench.report.tables import Table

PROBE = "translation"
TOLD = of(
    PROBE, "bleu", "bleu_low", "bleu_high", "chrf", "exact_match", "repeated_tokens", "length_ratio"
)  # fmt: skip
TARGETS = of("translated_data", "data_complexity", "data_faithfulness")
LEAD = (
    "BLEU and chrF are sacrebleu’s, against whole references. At least and at most: a 95 % bootstrap over the test "
    "sentences, the same draws for every state; it says what another test set might change, not what another seed "
    "would. A net that has lost its way says a word again and again, or stops early: see "
    "tokens said twice in a row, and words said over words wanted."
)
OF_TARGETS = (
    " Complexity C and unfaithfulness F of targets, by aligned words: C is how unsure a word’s translation is in them, F "
    "how far their translations are from those of the real ones. If the claim holds, a teacher’s targets are lower in C "
    "and higher in F than the real ones; C alone would be lowest of targets that always say the same."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in (*TOLD, *TARGETS)}


def section(panel: Panel, suffix: str) -> Section:
    title, anchor = "What is said", "translations"
    if not any(r.probe == PROBE for r in panel.rows):
        return Section(title, anchor)

    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Translations of the test sentences", TOLD, pick)

    plain = both(panel, title, anchor, build)
    targets = kept(
        metric_table(panel, moment, "Targets to learn from, and BLEU", (TOLD[0], *TARGETS))
        for moment in panel.moments
        if any(r.probe == TARGETS[0].probe and r.moment == moment and r.value is not None for r in panel.rows)
    )
    lead = LEAD + (OF_TARGETS if targets else "")
    return Section(plain.title, plain.anchor, plain.charts, (*plain.tables, *targets), plain.more, lead)
