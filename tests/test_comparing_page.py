"""How a comparison is shown: what others named can't run, steer or compute, and every figure is the comparison's own."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

import cases_comparing as cases
from cases_comparing import NASTY
from compressbench.comparing.comparison import Asked, Comparison, Said, compared
from compressbench.comparing.gate import MEASURES
from compressbench.comparing.intervals import Estimate
from compressbench.console import STEERING, console
from compressbench.deploying.limits import Limits, verdicts
from compressbench.deploying.measured import choices
from compressbench.errors import UserError
from compressbench.records import Records, read_jsonl, write_jsonl
from compressbench.report.joint import gather, write_joint
from compressbench.showing.account import Account, Attack, Fragility, Provenance, short_names
from compressbench.showing.document import SCHEMA, document, write_document
from compressbench.showing.figures import figures, interval_of, text_of
from compressbench.showing.flips import COLUMNS, flips_csv, write_flips
from compressbench.showing.junit import QUIET, junit, write_junit
from compressbench.showing.page import chapters, page, write_page
from compressbench.showing.pictures import SIDE, address
from compressbench.showing.recorded import keys_of, records_of
from compressbench.showing.terminal import print_account, screens
from compressbench.showing.width import cut, wrapped

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def full() -> Account:
    return cases.account()


@pytest.fixture(scope="module")
def bare() -> Account:
    return cases.account(labelled=False, full=False)


@pytest.fixture(scope="module")
def one() -> Account:
    return cases.account(others=(cases.said("models/small_int8.onnx", 0.6, 2),))


class Read(HTMLParser):
    """Tags that a page has, its texts, and its cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data if "span" not in self.open else f"|{data}"

    @property
    def text(self) -> str:
        return "".join(self.texts)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_holds_no_script_and_asks_no_network(full: Account) -> None:
    text = page(full, cases.thumbnail, ["flips.csv", "a b&c.json"])
    found = Read(text)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, given in found.tags:
        assert not [name for name in given if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "style"):
            value = given.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,", "./")), (tag, value)
    assert re.search(r"url\s*\(|@import", text) is None
    assert NASTY.replace("\x1b", "\ufffd") in found.text, "it is shown as what it is"
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    hrefs = {given["href"] for tag, given in found.tags if tag == "a"}
    ids = {given["id"] for _, given in found.tags if given.get("id")}
    assert {str(h)[1:] for h in hrefs if str(h).startswith("#")} <= ids
    assert {"./flips.csv", "./a%20b%26c.json"} <= hrefs


@pytest.mark.parametrize(
    "attribute", ["reference", "other", "form", "data", "class", "id", "group", "attribute"]
)
def test_each_name_of_others_is_escaped(attribute: str) -> None:
    """One at a time, so that none hides behind another."""
    evil = f'{attribute}"><img src=x onerror=alert(1)>\u202e'
    plain = Asked("photos", [f"{k}.png" for k in range(40)], None, ("a", "b", "c", "d", "e", "f"))
    given = {
        "data": evil if attribute == "data" else plain.name,
        "ids": [evil, *plain.ids[1:]] if attribute == "id" else plain.ids,
        "classes": (evil, *plain.classes[1:]) if attribute == "class" else plain.classes,
    }
    scores, labels = cases.logits(40, 6, 3)
    groups = {
        evil if attribute == "attribute" else "light": (
            np.arange(40) % 2,
            (evil if attribute == "group" else "x", "y"),
        )
    }
    asked = Asked(given["data"], given["ids"], labels, given["classes"], groups)
    changed = scores.copy()
    changed[0] = -changed[0]
    names = [evil if attribute == name else f"{name}.onnx" for name in ("reference", "other")]
    form = evil if attribute == "form" else "onnx"
    found = compared(asked, Said(names[0], form, scores), Said(names[1], form, changed))
    account = Account((found,), asked)
    read = Read(page(account))
    assert "img" not in {tag for tag, _ in read.tags}
    assert "<img src=x onerror=alert(1)>" in read.text
    assert "\u202e" not in page(account)
    for line in screens(account):
        assert not STEERING.search(line.text)
    ElementTree.fromstring(junit(account))
    json.dumps(document(account), allow_nan=False)


def test_every_figure_on_the_page_is_the_comparisons(full: Account) -> None:
    """The table against ``Comparison.figures``, whose numbers other tests hold against scipy's."""
    read = Read(page(full))
    rows = {row[0].partition("|")[0]: row for row in read.rows if row}
    known = {row.title: row for row in figures(full)}
    for title, row in known.items():
        cells = rows[title]
        assert len(cells) == len(full.names) + 2
        for place, found in enumerate(full.comparisons):
            own = found.figures.get(row.name)
            if row.name not in MEASURES or own is None:
                continue
            value = own.value if isinstance(own, Estimate) else own
            shown, _, beside = cells[place + 2].partition("|")
            digits = len(shown.partition(".")[2])
            assert float(shown) == pytest.approx(value, abs=0.51 * 10.0**-digits), title
            if isinstance(own, Estimate) and math.isfinite(own.low):
                low, high = re.findall(r"(-?[\d.]+) to (-?[\d.]+)$", beside)[0]
                assert (float(low), float(high)) == pytest.approx(
                    (own.low, own.high), abs=0.51 * 10.0**-digits
                )
    measured = {row.name for row in known.values()} & set(MEASURES)
    assert measured == set(MEASURES) - {"kl_99.9"}, "of 400 examples there is no worst of 1,000"


def test_every_sentence_is_on_the_page(full: Account, bare: Account) -> None:
    for account in (full, bare):
        text = " ".join(Read(page(account)).text.split())
        for found in account.comparisons:
            for _, sentences in found.in_words():
                for sentence in sentences:
                    assert " ".join(sentence.replace("\x1b", "\ufffd").split()) in text
        for note in account.notes:
            assert note.replace("\x1b", "\ufffd") in text


def test_oddities_come_first_where_there_are_any(full: Account, one: Account) -> None:
    assert next(chapters(full)).question == "Anything odd?"
    order = [c.question for c in chapters(one)]
    assert order == [
        "The same answers?", "Who pays?", "Which examples?", "More fragile?", "How sure?", "Smaller, faster?",
        "Where did it come from?", "Anything odd?",
    ]  # fmt: skip
    text = page(full)
    assert text.index('id="q8"') < text.index('id="figures"')
    lines = [line.text for line in screens(full)]
    start = lines.index("broken.onnx against models/resnet.onnx")
    assert lines[start + 2] == "Anything odd?"


def test_findings_name_their_examples(full: Account) -> None:
    (part,) = [p for c in chapters(full) if c.question == "Anything odd?" for p in c.parts if p.findings]
    first = part.findings[0]
    assert first.severe
    assert "photos/00007.jpg" in first.rows
    assert "photos/00011.jpg" in first.rows
    assert "not finite" in first.severity
    dead = next(f for f in part.findings if f.severity.startswith("dead class"))
    assert dead.rows.endswith(" more.")
    rows = next(f.rows for f in full.comparisons[1].findings if f.kind == "dead class")
    assert int(re.findall(r"and (\d+) more", dead.rows)[0]) == len(rows) - dead.rows.count(".jpg")


def test_what_is_beside_the_comparison_is_on_the_page(full: Account) -> None:
    """Cost, fragility, layers: as they were given."""
    rows = [row for row in Read(page(full)).rows if row]

    def row(name: str, *more: str) -> list[str]:
        return next(r for r in rows if r[0].startswith(name) and all(any(m in c for c in r) for m in more))

    assert row("gaussian noise", "more fragile")[1:] == [
        "75.0|70.5 to 79.0", "65.0|60.2 to 69.5; more fragile", "55.0|50.1 to 59.8; more fragile", "400",
    ]  # fmt: skip
    assert row("gaussian noise", "87.5")[1:3] == ["–", "87.5|83.9 to 90.4"]
    assert row("small_int8.onnx|onnxruntime")[1:] == ["300 kB", "–", "20 of 21 layers in int8"]
    assert row("small_int8.onnx|batch 32")[1:] == [
        "16.00|15.20 to 16.80", "2000|1900 to 2100", "2.50|2.40 to 2.60", "31",
    ]  # fmt: skip
    assert row("layer7.conv|int8 convolution")[1:] == ["33.0", "24.0"]
    assert row("layer11.conv", "97.5")[1:] == ["94.8|92.1 to 96.5", "97.5|95.5 to 98.6", "400"]
    provenance = " ".join(c for r in rows for c in r)
    for told in (
        "resized to 32 x 32, scaled to 0-1 (2)",
        "compressbench compare a b",
        "a processor",
        "/data/photos",
    ):
        assert told in provenance


def test_the_gallery_is_the_flips_in_order(one: Account) -> None:
    (part,) = [p for c in chapters(one, cases.thumbnail) if c.question == "Which examples?" for p in c.parts]
    flips = one.comparisons[0].flips
    assert [c.id for c in part.cards] == [f.id for f in flips[:60]]
    for card, flip in zip(part.cards, flips, strict=False):
        assert card.picture.startswith("data:image/png;base64,") is (flip.row % 9 != 0)
        assert card.answers[0][1:] == (
            one.class_name(flip.reference),
            f"{100 * flip.reference_confidence:.0f} %",
        )
        assert card.answers[1][1:] == (one.class_name(flip.other), f"{100 * flip.other_confidence:.0f} %")
        assert card.worse is (flip.kind == "right to wrong")
    (told,) = [p for c in chapters(one) if c.question == "Which examples?" for p in c.parts]
    assert not told.cards, "without pictures it is a table"
    assert [row[0][0] for row in told.tables[0].rows] == [f.id for f in flips[:60]]


def test_at_most_sixty_thumbnails_are_asked_for() -> None:
    asked: list[int] = []

    def thumbnail(row: int) -> np.ndarray:
        asked.append(row)
        return np.zeros((4, 4, 3), np.uint8)

    account = cases.account(full=False, others=(cases.said("far.onnx", 3.0, 4),))
    assert len(account.comparisons[0].flips) > 100
    page(account, thumbnail)
    assert len(asked) == 60


@pytest.mark.parametrize(
    "shape", [(32, 32), (32, 32, 1), (32, 24, 3), (300, 500, 3), (500, 3, 3), (224, 224, 4), (8, 8, 2)]
)
def test_a_thumbnail_is_the_picture_made_smaller(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 200, np.uint8)
    image[: shape[0] // 2] = 50
    encoded = address(image).removeprefix("data:image/png;base64,")
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert max(read.shape[:2]) <= SIDE == 112
    assert read.ndim == (3 if shape[2:] in ((3,), (4,)) else 2)
    assert int(read.reshape(read.shape[0], -1)[0, 0]) == 50
    assert int(read.reshape(read.shape[0], -1)[-1, 0]) == 200
    if max(shape[:2]) <= SIDE and len(shape) == 3 and shape[2] == 3:
        assert np.array_equal(read, image)


def test_a_smaller_picture_is_the_mean_of_squares() -> None:
    image = np.random.default_rng(1).integers(0, 256, (240, 226, 3)).astype(np.uint8)
    encoded = address(image).removeprefix("data:image/png;base64,")
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert read.shape == (80, 75, 3)
    assert np.array_equal(read[10, 20], np.round(image[30:33, 60:63].astype(float).mean((0, 1))))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((4,), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_thumbnail_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a thumbnail is uint8"):
        address(image)


def test_charts_are_well_formed_and_drawn_to_scale(full: Account) -> None:
    drawn = [chart for c in chapters(full) for p in c.parts for chart in p.charts]
    assert {c.title for c in drawn} == {
        "Loyalty and its floor", "How far apart", "Change by class", "Change by light", "Reliability", "Confidence",
        "Signal to noise by layer",
    }  # fmt: skip
    for chart in drawn:
        ElementTree.fromstring(chart.svg)
        assert "nan" not in chart.svg.lower().replace("name", "")
    chart = next(c for c in drawn if c.title == "Change by class")
    marks = re.findall(r'<circle cx="([\d.]+)"[^>]*><title>(.*?): (-?[\d.e+-]+) points', chart.svg)
    groups = {g.name: g.change for g in full.comparisons[0].by_class}
    order = sorted(groups.values(), key=lambda e: (e.high, e.value))
    assert [float(v) for *_, v in marks] == pytest.approx([e.value for e in order], rel=0.01)
    slopes = np.polyfit([e.value for e in order], [float(x) for x, *_ in marks], 1)
    assert [float(x) for x, *_ in marks] == pytest.approx(
        np.polyval(slopes, [e.value for e in order]), abs=0.2
    )
    assert slopes[0] > 0


def test_a_chart_of_many_classes_shows_both_ends() -> None:
    names = tuple(f"class {k}" for k in range(200))
    scores, labels = cases.logits(6000, 200, 1)
    other = scores + np.random.default_rng(3).normal(0, 0.3, scores.shape).astype(np.float32)
    asked = Asked("many", [str(k) for k in range(6000)], labels, names)
    found = compared(asked, Said("a", "", scores), Said("b", "", other))
    chart = next(
        c
        for each in chapters(Account((found,), asked))
        for p in each.parts
        for c in p.charts
        if c.title == "Change by class"
    )
    shown = re.findall(r"<circle[^>]*><title>(class \d+):", chart.svg)
    order = [g.name for g in sorted(found.by_class, key=lambda g: (g.change.high, g.change.value))]
    assert shown == [*order[:15], *order[-15:]]
    assert f"{len(order) - 30} in the middle" in chart.caption


def test_shapes_count_what_numpy_does() -> None:
    found = cases.compare(cases.said("b.onnx", 0.6, 2)).shapes
    scores, labels = cases.logits(400, 6, 2, 0.6)
    p = np.exp(scores.astype(float)) / np.exp(scores.astype(float)).sum(1, keepdims=True)
    assert found is not None
    counts, edges = np.histogram(p.max(1), np.linspace(0, 1, 16))
    assert found.other.counts == tuple(counts)
    assert found.edges == pytest.approx(edges)
    right, _ = np.histogram(p.max(1)[p.argmax(1) == labels], np.linspace(0, 1, 16))
    assert found.other.right == tuple(right)
    q = np.exp(cases.logits(400, 6, 1)[0].astype(float))
    q /= q.sum(1, keepdims=True)
    kl = (q * np.log(q / p)).sum(1)
    inner, _ = np.histogram(kl, found.kl_edges)
    assert found.kl[1:-1] == tuple(inner)
    assert sum(found.kl) == 400


def test_a_page_that_cant_be_written_is_said(one: Account, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write in (write_page, write_document, write_junit, write_flips):
        with pytest.raises(UserError, match="can't write"):
            write(one, tmp_path / "file" / "out")  # type: ignore[operator]


def test_the_same_account_gives_the_same_page(full: Account) -> None:
    assert page(full, cases.thumbnail) == page(cases.account(), cases.thumbnail)


# -- the terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 300])
def test_no_line_is_wider_than_the_terminal(full: Account, bare: Account, width: int) -> None:
    for account in (full, bare):
        for line in screens(account, width, "out/a very long name of a page, it is.html"):
            assert cell_len(line.text) <= width, line.text
            assert not STEERING.search(line.text)


def test_one_screen(one: Account) -> None:
    lines = screens(one)
    assert len(lines) <= 50, "about forty, with every section filled"
    text = " ".join(" ".join(line.text.split()) for line in lines)
    found = one.comparisons[0]
    for row in figures(one):
        if row.brief:
            assert text_of(row.values[1], row.unit) in text
            assert interval_of(row.values[1]) in text
    lost = min(found.by_class, key=lambda g: g.change.value)
    assert f"({-lost.change.high:.0f} to {-lost.change.low:.0f}) in {lost.name}" in text
    assert "58 of 400 answers" in text
    assert f"{found.flips[0].id} (right to wrong" in text
    assert "BROKEN: accuracy_drop<=1" in text
    assert "kept: loyalty>=50" in text


def test_what_is_printed_is_what_is_told(one: Account) -> None:
    buffer = io.StringIO()
    print_account(one, console(buffer, width=100, no_color=True), "out/x.html")
    assert buffer.getvalue().splitlines() == [line.text for line in screens(one, 100, "out/x.html")]


def test_wide_characters_are_counted_as_they_are_shown() -> None:
    assert wrapped("猫猫猫 犬犬犬 ab", 7) == ["猫猫猫", "犬犬犬", "ab"]
    assert wrapped("abcdefghij", 4, "  ") == ["abcd", "  ef", "  gh", "  ij"]
    assert cut("猫猫猫猫猫猫", 7) == "猫…猫猫"
    assert cell_len(cut("a_rather_long_name_int8.onnx", 12)) == 12
    assert cut("a_rather_long_name_int8.onnx", 12).endswith(".onnx")


def test_names_of_files_are_short_where_they_still_differ() -> None:
    assert short_names(("a/b/x.onnx", "c/y.onnx")) == ("x.onnx", "y.onnx")
    assert short_names(("a/x.onnx", "b/x.onnx")) == ("a/x.onnx", "b/x.onnx")


# -- the account -------------------------------------------------------------------------------------------------------


def test_the_same_file_twice_is_numbered() -> None:
    scores, labels = cases.logits(40, 6, 0)
    asked = Asked("x", [str(k) for k in range(40)], labels, cases.CLASSES)
    found = compared(asked, Said("a.onnx", "", scores), Said("a.onnx", "", scores))
    account = Account((found, found), asked, Provenance(keys=("k", "k", "k")))
    assert account.names == ("a.onnx", "a.onnx (2)", "a.onnx (3)")
    assert {r.series for r in records_of(account)} == {"dense", "a.onnx (2)", "a.onnx (3)"}
    Read(page(account))
    assert not any(f.flips for f in account.comparisons)


def test_what_doesnt_belong_together_is_refused(full: Account) -> None:
    first = full.comparisons[0]
    with pytest.raises(ValueError, match="one comparison or more"):
        Account((), full.asked)
    with pytest.raises(ValueError, match="asked are 10 examples"):
        Account((first,), cases.asked(10))
    with pytest.raises(ValueError, match="verdicts: 2 for 1"):
        Account((first,), full.asked, verdicts=full.verdicts)
    with pytest.raises(ValueError, match="accuracy under x: 1 for 2"):
        Account((first,), full.asked, fragility=Fragility((Attack("x", (None,)),)))
    other = compared(full.asked, cases.said("another.onnx", 0.1, 3), cases.said("b", 0.2, 3))
    with pytest.raises(ValueError, match="one reference"):
        Account((first, other), full.asked)


# -- the JSON document -------------------------------------------------------------------------------------------------

Tables = Mapping[str, Mapping[str, str]]


def documented() -> Tables:
    """Heading -> name -> type, as docs/compare_json.md has them."""
    text = (DOCS / "compare_json.md").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for section in text.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        table = body.partition("| name | type | |\n")[2].partition("\n\n")[0]
        names: dict[str, str] = {}
        for line in table.splitlines()[1:]:
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            names |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[1])
        found[heading] = names
    return found


def wrong(value: Any, kind: str, tables: Tables, at: str) -> list[str]:
    """What of a value isn't as its documented type says."""
    if kind.endswith(" by name"):
        if not isinstance(value, dict):
            return [f"{at}: no object"]
        return [
            w for k, v in value.items() for w in wrong(v, kind.removesuffix(" by name"), tables, f"{at}.{k}")
        ]
    if kind.startswith("list of "):
        if not isinstance(value, list):
            return [f"{at}: no list"]
        return [w for v in value for w in wrong(v, kind.removeprefix("list of "), tables, f"{at}[]")]
    if kind.endswith(" or null"):
        return [] if value is None else wrong(value, kind.removesuffix(" or null"), tables, at)
    plain = {
        "text": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "true or false": isinstance(value, bool),
    }
    if kind in plain:
        return [] if plain[kind] else [f"{at}: {value!r} is not {kind}"]
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no {kind}"]
    there, told = set(value), set(tables[kind])
    found = [f"{at}: {n} is not documented" for n in there - told] + [
        f"{at}: {n} is missing" for n in told - there
    ]
    return found + [w for n in there & told for w in wrong(value[n], tables[kind][n], tables, f"{at}.{n}")]


@pytest.mark.parametrize("which", ["full", "bare", "one"])
def test_the_document_is_as_documented(which: str, request: pytest.FixtureRequest) -> None:
    found = document(request.getfixturevalue(which))
    assert found["schema"] == SCHEMA == 1
    again = json.loads(json.dumps(found, allow_nan=False))
    assert wrong(again, "document", documented(), "") == []


def test_every_documented_type_is_met(full: Account, bare: Account) -> None:
    """So that no table of the docs is about what nothing gives."""
    met: set[str] = set()
    tables = documented()

    def walk(value: Any, kind: str) -> None:
        kind = kind.removesuffix(" or null") if value is not None else ""
        if kind.endswith(" by name"):
            for each in value.values():
                walk(each, kind.removesuffix(" by name"))
        elif kind.startswith("list of "):
            for each in value:
                walk(each, kind.removeprefix("list of "))
        elif kind in tables:
            met.add(kind)
            for name, own in tables[kind].items():
                walk(value[name], own)

    walk(document(full), "document")
    walk(document(bare), "document")
    assert met == set(tables)
    named = {t for own in tables.values() for k in own.values() for t in re.findall(r"[a-z]+", k)}
    assert named - set(tables) == {
        "text",
        "number",
        "true",
        "false",
        "or",
        "null",
        "list",
        "of",
        "by",
        "name",
    }


def test_the_figures_names_are_documented(full: Account) -> None:
    text = (DOCS / "compare_json.md").read_text(encoding="utf-8")
    table = text.partition("| figure | |\n")[2].partition("\n\n")[0]
    told = {name for line in table.splitlines()[1:] for name in re.findall(r"`([\w.]+)`", line.split("|")[1])}
    large = cases.compare(cases.said("b.onnx", 0.6, 2, n=1200), n=1200)
    given = {row.name for row in figures(full)} | {
        row.name for row in figures(Account((large,), cases.asked(1200)))
    }
    assert {re.sub(r"_b\d+$", "_bN", name) for name in given} == told
    assert set(MEASURES) <= told


def test_the_documents_figures_are_the_comparisons(full: Account) -> None:
    for told, found in zip(document(full)["comparisons"], full.comparisons, strict=True):
        for name, value in found.figures.items():
            if value is None:
                assert name not in told["figures"]
                continue
            shown = told["figures"][name]["other"]
            if isinstance(value, Estimate):
                assert (shown["value"], shown["low"], shown["high"], shown["n"]) == (
                    value.value, value.low, value.high, value.n,
                )  # fmt: skip
            else:
                assert shown["value"] == value
                assert shown["n"] > 0
            assert told["figures"][name]["better"] == MEASURES[name].better
        assert [f["id"] for f in told["flips"]] == [f.id for f in found.flips]
        assert [f["words"] for f in told["findings"]] == [f.words for f in found.findings]
        assert [f["ids"] for f in told["findings"]] == [
            [full.asked.ids[r] for r in f.rows] for f in found.findings
        ]
        assert told["counts"]["changed"] == len(found.flips)
        assert [g["change"]["low"] for g in told["classes"]] == [g.change.low for g in found.by_class]
        assert [v["kept"] for v in told["gate"]] == [True, False, True]


def test_the_document_is_written_whole(full: Account, tmp_path: Path) -> None:
    path = write_document(full, tmp_path / "deep" / "x.json")
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(document(full)))


# -- JUnit and CSV -----------------------------------------------------------------------------------------------------


def test_junit_has_a_case_a_limit_and_one_a_severe_oddity(full: Account) -> None:
    root = ElementTree.fromstring(junit(full))
    first, second = root.findall("testsuite")
    assert [c.get("name") for c in first] == cases.LIMITS.split(",")
    assert [[x.tag for x in c] for c in first] == [[], ["failure"], []]
    assert (first.get("tests"), first.get("failures"), first.get("errors")) == ("3", "1", "0")
    severe = [f for f in full.comparisons[1].findings if f.severity >= 2]
    assert len(severe) >= 3
    assert len(second) == 3 + len(severe)
    assert second.get("failures") == str(1 + len(severe))
    assert [c.find("failure").text for c in list(second)[3:]] == [f.words for f in severe]  # type: ignore[union-attr]


def test_junit_of_what_cant_be_told_is_an_error(bare: Account) -> None:
    from compressbench.comparing.gate import conditions
    from compressbench.comparing.gate import verdicts as of_gate

    found = bare.comparisons[0]
    told = (of_gate(conditions("accuracy>=50"), found.figures),)
    root = ElementTree.fromstring(junit(Account((found,), bare.asked, verdicts=told)))
    (suite,) = root
    assert [x.tag for c in suite for x in c] == ["error"]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    quiet = ElementTree.fromstring(junit(Account((found,), bare.asked)))
    assert [(c.get("name"), len(c)) for c in quiet.iter("testcase")] == [(QUIET, 0)]


def test_the_list_of_flips_is_whole_and_safe(full: Account) -> None:
    rows = list(csv.DictReader(io.StringIO(flips_csv(full))))
    assert tuple(rows[0]) == COLUMNS
    flips = [f for c in full.comparisons for f in c.flips]
    assert len(rows) == len(flips) > 100
    for row, flip in zip(rows, flips, strict=True):
        assert int(row["row"]) == flip.row
        assert row["kind"] == flip.kind
        assert not re.match(r"\s*[=+@\-]", row["id"])
        if flip.other >= 0:
            assert int(row["other_answer"]) == flip.other
            assert float(row["other_confidence"]) == pytest.approx(flip.other_confidence, abs=1e-6)
        else:
            assert row["other_answer"] == row["other_name"] == row["other_confidence"] == ""
    evil = next(r for r in rows if r["row"] == "3")
    assert evil["id"].startswith("'=cmd|")
    assert "\x1b" not in flips_csv(full)


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(full: Account, tmp_path: Path) -> Path:
    write_jsonl(records_of(full), tmp_path / "records.jsonl")
    return tmp_path


def test_records_are_read_by_report_and_gate(full: Account, folder: Path) -> None:
    gathered = gather([folder])
    assert list(read_jsonl(folder / "records.jsonl")) == records_of(full)
    text = write_joint(gathered, folder).read_text(encoding="utf-8")
    assert text.count("<script") == 1  # the page's own
    assert "small_<wbr>int8" in text
    found = {c.series: c for c in choices(gathered.drawn, "onnxruntime")}
    assert set(found) == {"dense", *full.names[1:]}
    small, broken = (found[name] for name in full.names[1:])
    loyalty = full.comparisons[0].loyalty.value
    assert [v.kept for v in verdicts(small, Limits(min_loyalty=loyalty - 0.1))] == [True]
    assert [v.kept for v in verdicts(small, Limits(min_loyalty=loyalty + 0.1))] == [False]
    drop = full.comparisons[1].accuracy.drop.value  # type: ignore[union-attr]
    assert [v.kept for v in verdicts(broken, Limits(max_drop=drop - 0.1))] == [False]
    assert [v.kept for v in verdicts(broken, Limits(max_drop=drop + 0.1))] == [True]
    lost = full.comparisons[1].figures["worse_class"]
    assert isinstance(lost, Estimate)
    assert [v.kept for v in verdicts(broken, Limits(max_class_drop=lost.value - 0.1))] == [False]
    assert [v.kept for v in verdicts(broken, Limits(max_class_drop=lost.value + 0.1))] == [True]
    assert [v.kept for v in verdicts(small, Limits(max_bytes=300_000))] == [True]
    assert [v.kept for v in verdicts(small, Limits(max_bytes=299_999))] == [False]


def test_records_figures_are_the_comparisons(full: Account) -> None:
    rows = Records(records_of(full))
    for place, found in enumerate(full.comparisons):
        own = rows.where(series=full.names[place + 1])
        for probe, metric, name in (
            ("accuracy", "top1", "accuracy"),
            ("accuracy", "ece", "calibration_error"),
            ("loyalty", "label_loyalty", "loyalty"),
            ("loyalty", "probability_loyalty", "probability_loyalty"),
            ("compare", "accuracy_drop", "accuracy_drop"),
            ("compare", "changed", "changed"),
            ("compare", "right_to_wrong", "right_to_wrong"),
            ("compare", "kl", "kl"),
            ("compare", "kl_99", "kl_99"),
            ("compare", "total_variation", "total_variation"),
            ("compare", "top5_overlap", "top5_overlap"),
            ("compare", "rank_correlation", "rank_correlation"),
            ("compare", "oddities", "findings"),
        ):
            value = found.figures[name]
            (row,) = own.where(probe=probe, metric=metric, group="")
            assert row.value == (value.value if isinstance(value, Estimate) else value), metric
            assert row.n > 0
        changes = {r.group: r.value for r in own.where(probe="forgetting", metric="recall_change")}
        assert changes == {g.name.replace("\x1b", "\\x1b"): g.change.value for g in found.by_class}
        assert len(own.where(metric="flip")) == len(found.flips)
    small = rows.where(series=full.names[1])
    for probe, metric, group, value in (
        ("cost", "dense_bytes", "", 300_000),
        ("cost", "compression_ratio", "", 1_100_000 / 300_000),
        ("targets", "file_bytes", "onnxruntime", 300_000),
        ("targets", "latency_b32", "onnxruntime", 16.0),
        ("targets", "throughput_b32", "onnxruntime", 2000.0),
        ("targets", "speedup_low_b32", "onnxruntime", 2.4),
        ("fragility", "attacked_top1", "gaussian noise, severity 3", 65.0),
        ("fragility", "attacked_loyalty", "gaussian noise, severity 3", 87.5),
        ("noise", "noise_made", "layer7.conv", 33.0),
        ("noise", "noise_arrived", "layer7.conv", 24.0),
    ):
        (row,) = small.where(probe=probe, metric=metric, group=group)
        assert row.value == pytest.approx(value)
    (floor,) = rows.where(series="floor", metric="label_loyalty")
    assert floor.value == full.comparisons[0].floors[0].loyalty.value
    assert {r.reference for r in rows} == {full.provenance.keys[0]}


def test_no_other_is_taken_for_the_reference_or_the_floor() -> None:
    account = cases.account(others=(cases.said("dense", 0.2, 2), cases.said("floor", 0.3, 2)))
    series = list(dict.fromkeys(r.series for r in records_of(account)))
    assert series == ["dense", "dense (other)", "floor (other)", "floor"]


def test_states_without_content_addresses_are_told_apart_by_their_answers(bare: Account) -> None:
    keys = keys_of(bare)
    assert len(set(keys)) == 3
    assert keys_of(cases.account(labelled=False, full=False)) == keys
    far = cases.account(
        labelled=False, full=False, others=(cases.said("models/small_int8.onnx", 0.7, 2), cases.broken())
    )
    assert [a == b for a, b in zip(keys_of(far), keys, strict=True)] == [False, False, True]
    half = Account(bare.comparisons, bare.asked, Provenance(keys=("", "mine", "")))
    assert keys_of(half) == (keys[0], "mine", keys[2])


def test_records_without_labels_hold_no_accuracy(bare: Account) -> None:
    account = Account(bare.comparisons, bare.asked, Provenance(keys=("a", "b", "c")))
    rows = Records(records_of(account))
    assert not rows.where(metric=["top1", "recall", "accuracy_drop", "right_to_wrong", "error_answered"])
    assert len(rows.where(metric="label_loyalty", series=list(account.names[1:]))) == 2


def _only(found: Comparison) -> Account:
    return Account((found,), cases.asked())


def test_a_comparison_without_shapes_is_shown_all_the_same(full: Account) -> None:
    from dataclasses import replace

    account = _only(replace(full.comparisons[0], shapes=None))
    titles = {chart.title for c in chapters(account) for p in c.parts for chart in p.charts}
    assert titles == {"Loyalty and its floor", "Change by class", "Change by light"}
    assert document(account)["comparisons"][0]["shapes"] is None
