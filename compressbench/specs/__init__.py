"""Specs: ``{"_target_": "package.module.name", ...}`` read statically, checked, and built late.

Planning never imports what a spec points at: its parameters are read from the source text, so that a misspelt
key or a reference is found in milliseconds, and without running anybody's code.
"""

from compressbench.specs.annotations import LISTS, PLAIN, fits, in_words, its_unit
from compressbench.specs.building import build
from compressbench.specs.checking import check, check_plain
from compressbench.specs.ranges import (
    RANGES,
    Count,
    Length,
    Moderate,
    NonNegative,
    Positive,
    Share,
    check_fields,
    within,
)
from compressbench.specs.references import Ref, map_refs
from compressbench.specs.signatures import Parameter, Signature, signature
from compressbench.specs.sources import let_import_from, sources_digest
from compressbench.specs.spec import PARTIAL, TARGET, is_spec, settings_of, walk
from compressbench.specs.words import (
    GIVEN,
    SHORT,
    Criterion,
    ExitCriterion,
    ExitHead,
    Grain,
    Observer,
    Scope,
    expand,
)

__all__ = [
    "GIVEN",
    "LISTS",
    "PARTIAL",
    "PLAIN",
    "RANGES",
    "SHORT",
    "TARGET",
    "Count",
    "Criterion",
    "ExitCriterion",
    "ExitHead",
    "Grain",
    "Length",
    "Moderate",
    "NonNegative",
    "Observer",
    "Parameter",
    "Positive",
    "Ref",
    "Scope",
    "Share",
    "Signature",
    "build",
    "check",
    "check_fields",
    "check_plain",
    "expand",
    "fits",
    "in_words",
    "is_spec",
    "its_unit",
    "let_import_from",
    "map_refs",
    "settings_of",
    "signature",
    "sources_digest",
    "walk",
    "within",
]
