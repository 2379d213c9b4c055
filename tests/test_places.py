"""What README and docs say of where things are, against the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from test_rooms import AGAINST, PACKAGE, ROOT, arrows, modules

README = ROOT / "README.md"
DOCS = sorted(p for p in (ROOT / "docs").glob("*.md"))
ARCHITECTURE = README.read_text(encoding="utf-8").partition("## Architecture")[2].partition("\n## ")[0]
# what the reader is to fill in, or makes in a folder of their own
OWN = re.compile(r"NAME|KIND|\bmine\b|^my\w*\.py")


def missing(text: str) -> list[str]:
    """Paths in backticks that are neither in the repository, the package nor the configs."""
    named = re.findall(r"`([\w.\-]+(?:/[\w.\-]+)*(?:\.py|\.yaml|/))`", text)
    return [
        name
        for name in named
        if not OWN.search(name) and not any((top / name).exists() for top in (ROOT, PACKAGE))
    ]


def test_a_path_that_is_not_there_is_found() -> None:
    text = (
        "`runs/plan.py`, `specs/`, `conf/recipe/one_shot.yaml`, `conf/probe/NAME.yaml`, `gone/`, `attacks.py`"
    )
    assert missing(text) == ["gone/", "attacks.py"]


def test_the_architecture_names_what_is_there() -> None:
    assert len(re.findall(r"`[\w/]+(?:\.py|/)`", ARCHITECTURE)) > 60
    # files said beside their folder
    beside = {
        "trust.py",
        "plan.py",
        "execute.py",
        "estimate.py",
        "experiment.py",
        "provenance.py",
        "finished.py",
        "allocator.py",
    }
    gone = [name for name in missing(ARCHITECTURE) if name not in beside]
    assert gone == []
    assert all(any(PACKAGE.rglob(name)) for name in beside)


def test_every_room_has_a_line() -> None:
    told = ARCHITECTURE.partition("| folder or file |")[2].partition("\n\n")[0]
    rooms = {p.name + "/" for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    rooms |= {p.name for p in PACKAGE.glob("*.py") if not p.name.startswith("__")}
    # a few lines each, for one another's use
    small = {"errors.py", "wording.py", "png.py"}
    assert sorted(name for name in rooms - small if f"`{name}`" not in told and f"`{name}" not in told) == []


def test_rooms_stand_on_each_other_as_the_readme_says() -> None:
    said = re.search(r"In the order in which they stand on\s+each other: ([^.]*)\.", ARCHITECTURE)
    assert said
    order = re.findall(r"`(\w+)`", said[1])
    assert len(order) > 10
    wrong = [
        (a, b)
        for a, b in arrows(modules())
        if (a, b) not in AGAINST and a in order and b in order and order.index(a) < order.index(b)
    ]
    assert wrong == []


def test_where_would_i_change_names_things_that_are_there() -> None:
    asked = ARCHITECTURE.partition("**Where would I change")[2].partition("\n\n**")[0]
    rows = [row.split("|")[1:3] for row in asked.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 7
    for _, answer in rows:
        paths = re.findall(r"`([\w/]+\.py)`", answer)
        assert paths or "`report/`" in answer
        sources = "".join(
            (PACKAGE / p if (PACKAGE / p).exists() else ROOT / p).read_text(encoding="utf-8") for p in paths
        )
        for name in re.findall(r"`(_?[A-Za-z]\w*)`", answer):
            assert re.search(rf"\b{name}\b", sources), f"{name} is in none of {paths}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.stem)
def test_docs_name_configs_that_are_there(path: Path) -> None:
    named = set(re.findall(r"`(conf/[\w/.\-]+)`", path.read_text(encoding="utf-8")))
    assert sorted(n for n in named if not OWN.search(n) and not (ROOT / n).exists()) == []


def test_every_format_that_is_written_says_how_it_is_loaded() -> None:
    from compressbench.deploying import exporting, handing_over

    assert list(exporting.FORMS) == list(handing_over.FORMS)
