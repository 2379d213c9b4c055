"""``compressbench completion bash``: completion of verbs, config groups, keys and values."""

from __future__ import annotations

import os

from compressbench.errors import UserError, nearest

BASH = """_compressbench() {
  local choices
  choices=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" "${COMP_WORDS[0]}" completion query 2>/dev/null)
  COMPREPLY=( $(compgen -o nospace -o default -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}") )
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _compressbench compressbench
"""


def main(argv: list[str]) -> int:
    """The verb; returns an exit code."""
    if argv == ["bash"]:
        print(BASH, end="")
        return 0
    if argv == ["query"]:
        return query(os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", ""))
    raise UserError(
        f'completion: {nearest(argv[0] if argv else "", ["bash"])}; use: eval "$(compressbench completion bash)"'
    )


def query(line: str, point: str) -> int:
    """Prints what may stand where the cursor is."""
    from compressbench.cli import main as front

    line = line[: int(point)] if point.isdigit() else line
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(" ".join(front.VERBS))
        return 0
    if words[1] == "tour":
        from compressbench.report.tour_rows import parts

        slides = {slide.name: slide for part in parts() for slide in part.slides}
        if len(words) == 2 or (len(words) == 3 and not line.endswith(" ")):
            print(" ".join([*slides, "--write", "--only", "--outputs"]))
            return 0
        numbers = {str(slide.number): slide for slide in slides.values()}
        slide = slides.get(words[2]) or numbers.get(words[2])
        if slide is None:
            return 0
        begin = f"run recipe={slide.recipe}"
        words, line = ["compressbench", "run"], line.replace(f"tour {words[2]}", begin, 1)
    if words[1] in ("run", "explain"):
        rest = line.partition(words[1])[2].lstrip()
        os.environ["COMP_LINE"] = f"compressbench {rest}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
        return front.run(["run", "-sc", "query=bash"])
    if words[1] == "data":
        from compressbench.specs.conf import conf_dir, entries

        print(" ".join(name for name, _ in entries(conf_dir(), "datasets")))
    return 0
