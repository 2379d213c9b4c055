"""JUnit XML for continuous integration: one test case a limit of the gate, and one a severe oddity."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from compressbench.comparing.oddities import WRONG
from compressbench.paths import write_named
from compressbench.report.drawing import clean
from compressbench.showing.account import Account

QUIET = "nothing is broken"
"""The test case of a comparison without limits and without severe oddities: some servers refuse an empty suite."""


def write_junit(account: Account, path: Path) -> Path:
    """Writes the document (see ``junit``).

    Raises:
        UserError: it can't be written.
    """
    return write_named(path, junit(account))


def junit(account: Account) -> str:
    """The document: one suite a comparison.

    A limit that is kept is a test that passes; one that is broken a failure; one of which it can't be told an error. An
    oddity of severity 2 or 3 is a failure.
    """
    root = ElementTree.Element("testsuites", name="compressbench compare")
    for place, found in enumerate(account.comparisons):
        suite = ElementTree.SubElement(root, "testsuite")
        whose = f"{account.names[place + 1]} against {account.names[0]}"
        failures = errors = 0
        for verdict in account.verdicts_of(place):
            case = _case(suite, whose, str(verdict.condition))
            if verdict.kept is None:
                _outcome(case, "error", "can't tell", verdict.words)
                errors += 1
            elif not verdict.kept:
                _outcome(case, "failure", "limit broken", verdict.words)
                failures += 1
        severe = [f for f in found.findings if f.severity >= WRONG]
        for finding in severe:
            _outcome(_case(suite, whose, f"oddity: {finding.kind}"), "failure", finding.kind, finding.words)
        if not len(suite):
            _case(suite, whose, QUIET)
        for name, value in (
            ("name", whose),
            ("tests", len(suite)),
            ("failures", failures + len(severe)),
            ("errors", errors),
            ("skipped", 0),
            ("time", f"{account.provenance.seconds or 0:.3f}"),
        ):
            suite.set(name, clean(str(value)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, whose: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=clean(f"compressbench.compare.{whose}"), name=clean(name), time="0"
    )


def _outcome(case: ElementTree.Element, kind: str, what: str, words: str) -> None:
    told = ElementTree.SubElement(case, kind, message=clean(words), type=clean(what))
    told.text = clean(words)
