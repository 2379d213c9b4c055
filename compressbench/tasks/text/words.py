"""Words of an English text: where they are, which ones only hold a sentence together, regular inflection."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Synonyms = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Lower-case word -> part of speech (n, v, a, r) -> words of the same part, likeliest first."""
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


STOP_WORDS = _listed(
    """
    a an the this that these those such each every either neither both all any some no none other another same own
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what where when why how
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing
    aboard about above across after against along amid among around as at atop before behind below beneath beside
    besides between beyond by despite down during except for from in inside into like near of off on onto out outside
    over past per since than through throughout till to toward towards under underneath until up upon via with within
    without and but or nor so yet if unless because although though while whereas whether
    am is are was were be been being have has had having do does did doing done will would shall should can could may
    might must ought not never n't t s re ve ll d m ain aren couldn didn doesn don hadn hasn haven isn mustn needn
    shouldn wasn weren won wouldn cannot
    there here then thus hence too also very just only even more most less least much many few several again once
    """
)
"""Words of closed classes: articles, pronouns, prepositions, conjunctions, auxiliaries, negations, their short forms.

Put together for this project from the classes themselves, under its licence; no published list was copied.
"""
ENDINGS = {"s": "nv", "ed": "v", "ing": "v"}
"""Regular endings and the parts of speech that have them."""
DOUBLED = _listed(
    """
    admit allot begin commit compel concur confer control defer deter dispel emit equip excel expel forget incur infer
    occur omit patrol permit prefer propel rebel recur refer regret repel submit transfer transmit upset
    """
)
"""Verbs of several syllables whose last letter is doubled, since the last one is stressed."""
IRREGULAR = {
    "ed": _listed(
        """
        arise awake bear beat become begin bend bet bid bind bite bleed blow break breed bring broadcast build burst buy
        cast catch choose cling come cost creep cut deal dig draw drink drive eat fall feed feel fight find flee fling
        fly forbid forecast foresee forget forgive forsake freeze get give go grind grow hang hear hide hit hold hurt
        keep know lay lead leave lend let lie light lose make mean meet misread mistake overcome oversee overtake pay
        put quit read rebuild rend rid ride ring rise run say see seek sell send set shake shed shine shoot show shrink
        shut sing sink sit sleep slide sling slit speak speed spend spin split spread spring stand steal stick sting
        stink strike string strive swear sweep swell swim swing take teach tear tell think throw thrust undergo
        understand undertake undo uphold upset wake wear weave weep win wind withdraw withhold withstand wring write
        """
    ),
    "s": _listed(
        """
        alumnus analysis axis bacterium basis calf child cod crisis criterion datum deer diagnosis die elf fish foot
        goose half hypothesis knife leaf life loaf louse man medium mouse oasis ox phenomenon scarf self series sheep
        shelf species stimulus synopsis synthesis thesis thief tooth wife wolf woman be have
        """
    ),
    "ing": frozenset(),
}
"""Words that regular endings would spell wrong."""


def pieces(text: str) -> list[str]:
    """The text cut so that words are at odd places, and what is between them at even ones; joined it is the text."""
    found, last = [], 0
    for hit in WORD.finditer(text):
        found += [text[last : hit.start()], hit[0]]
        last = hit.end()
    return [*found, text[last:]]


def without(parts: Sequence[str], place: int) -> str:
    """The text without the word at a place, and without one of two spaces that would be left beside each other."""
    before, after = "".join(parts[:place]), "".join(parts[place + 1 :])
    if after.startswith(" ") and (not before or before.endswith(" ")):
        after = after[1:]
    elif not after:
        before = before.removesuffix(" ")
    return before + after


def is_stop(word: str) -> bool:
    """Whether a word is a stop word, or a short form all of whose parts are some: ``don't``, ``it’s``, ``we've``."""
    lower = word.lower()
    return lower in STOP_WORDS or all(part in STOP_WORDS for part in re.split("['’]", lower))


def candidates(word: str, synonyms: Synonyms) -> list[str]:
    """What can stand for a word, likeliest first: of a part of speech that it can be, inflected and written as it is.

    Without a tagger a word may be any part of speech that the list knows it as; a noun's synonyms may so take the place
    of the verb of the same form, as TextFooler allows. Regular ``-s``, ``-ed`` and ``-ing`` are taken off and put on
    the synonyms. Stop words neither have candidates nor are some.
    """
    lower = word.lower()
    if is_stop(lower):
        return []
    found = dict.fromkeys(other for others in synonyms.get(lower, {}).values() for other in others)
    for ending, parts in ENDINGS.items():
        for lemma in _lemmas(lower, ending):
            for part, others in synonyms.get(lemma, {}).items():
                if part in parts:
                    made = (inflected(other, ending) for other in others)
                    found |= dict.fromkeys(other for other in made if other is not None)
    return [_cased(other, word) for other in found if other != lower and not is_stop(other)]


def inflected(word: str, ending: str) -> str | None:
    """A word with a regular ending (``s``, ``ed``, ``ing``), None where it is known to have another form."""
    last = re.split(r"[-']", word)[-1]
    if last in IRREGULAR[ending] or (ending == "s" and last.endswith("man")):
        return None
    to_i = re.search(r"[^aeiou]y\Z", word) is not None
    if ending == "s":
        hissing = word.endswith(("s", "x", "z", "ch", "sh"))
        return f"{word[:-1]}ies" if to_i else f"{word}es" if hissing else f"{word}s"
    if last in DOUBLED or re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", last):
        return f"{word}{word[-1]}{ending}"
    if ending == "ed":
        return f"{word[:-1]}ied" if to_i else f"{word}d" if word.endswith("e") else f"{word}ed"
    if word.endswith("ie"):
        return f"{word[:-2]}ying"
    silent = word.endswith("e") and not word.endswith(("ee", "oe", "ye"))
    return f"{word[:-1] if silent else word}ing"


def _lemmas(word: str, ending: str) -> list[str]:
    """Words that the regular ending makes this one of."""
    if not word.endswith(ending):
        return []
    stem = word.removesuffix(ending)
    tried = [stem, f"{stem}e", stem[:-1]]
    if stem.endswith("i"):
        tried.append(f"{stem[:-1]}y")
    if stem.endswith("ie"):
        tried.append(f"{stem[:-2]}y")
    if stem.endswith("y"):
        tried.append(f"{stem[:-1]}ie")
    return [lemma for lemma in dict.fromkeys(tried) if len(lemma) > 1 and inflected(lemma, ending) == word]


def _cased(word: str, like: str) -> str:
    """In capitals, or with a capital first, as another one is written."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
