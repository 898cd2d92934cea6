"""Spans within prose that must not be translated: code, formulas, addresses, tags, names.

One pattern scans the text from left to right. What it can match to its end is a span; of what
it cannot (brackets to balance, closers to look for), it matches the opener and a function finds
the end. Each part of the text is read a bounded number of times, whatever it holds.
"""

import json
import re
from bisect import bisect_left
from functools import lru_cache

from hala_engine.translate.masking.latex import Latex
from hala_engine.translate.possessive import compile_possessive

HOLE = "\ue000"
Span = tuple[int, int]

_DIRECTION = r"\u200e\u200f\u202a-\u202e\u2066-\u2069"
# White space and the signs of direction that may stand within a mark.
GAP = rf"[\s{_DIRECTION}]*+"
# A hole as the model sees it, and as it may spell it.
MARK = rf"[<＜]{GAP}(?:/{GAP})?[xX]{GAP}(?P<number>\d{{1,9}}){GAP}(?:/{GAP})?[>＞]"

_WORD = "[A-Za-z0-9_]"
_NAME = f"[A-Za-z_]{_WORD}*+"
_ARGUMENTS = r"\((?:[^\s(),]++(?:,[ ]?[^\s(),]++)*+)?+\)"
_HEX = "[0-9a-fA-F]"
# Not in a URL: white space, quotes and brackets, Arabic and Chinese marks, signs of direction.
_NOT_URL = rf"""\s<>"`|\\{HOLE}،؛؟«»“”‘’…，。；：！？、（）「」『』《》{_DIRECTION}"""
_URL = rf"(?:[^{_NOT_URL}\]]|\](?!\())"
_FOLDER = rf"(?:[^{_NOT_URL}/:*?]|<\w++>)++"
_ATTRIBUTE = (
    r"""\s++(?:[A-Za-z_:@*.\#(\[][\w:.()\[\]-]*+\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>=`]++)"""
    r"""|(?:allowfullscreen|async|autofocus|autoplay|checked|controls|defer|disabled|hidden|loop"""
    r"""|multiple|muted|novalidate|open|readonly|required|reversed|selected)(?![\w-]))"""
)
_TAG = rf"</?[A-Za-z][\w:.-]*+(?:{_ATTRIBUTE})*+\s*+/?>"
_FORMAT = r"%(?:\(\w++\)|\d++\$)?+[-+#0]*+\d*+(?:\.\d++)?+(?:ll?|h|z)?+[sdifuxXeEgGcr@]"
_SAME_PARAGRAPH = r"\n(?![^\S\n]*+\n)"
_FORMULA = rf"(?:[^$\\\n]|\\[\s\S]|{_SAME_PARAGRAPH})"
_FIELD = r"(?:[A-Za-z_][A-Za-z0-9_.-]*+(?:\[[^\[\]{}\s]*+\])?+(?:![rsa])?+|\d{0,9}+)"
_LINK_TITLE = r"""(?:\s++(?:"[^"\n]*+"|'[^'\n]*+'))?+"""
# Of a definition, '[label]: /path "title"': an address, not words.
_LINK_TARGET = r"""[^\S\n]++(?=[^\s/\#<]*+[/\#<])\S++(?:[ \t]++(?:"[^"\n]*+"|'[^'\n]*+'))?+"""
_ASCII_PATH = "(?:/[A-Za-z0-9_.@+-]++)"
_EXTENSIONS = (
    "avi|bat|bmp|cc|cfg|conf|cpp|cs|css|csv|dll|docx?|exe|gif|gz|hpp|html?|ini|ipynb|jar"
    "|java|jpe?g|jsonl?|jsx?|kt|lock|log|md|mov|mp3|mp4|parquet|pdf|php|png|pptx?|ps1|py|rar|rb|rs"
    "|rst|safetensors|scss|sh|sql|svg|swift|tar|tgz|toml|tsv|tsx?|txt|vue|wav|webp|whl|xlsx?|xml"
    "|ya?ml|zip"
)
# Names that begin dotted paths and seldom end a sentence.
_MODULES = (
    "cls|datetime|itertools|json|np|numpy|nn|os|pandas|pd|plt|requests|scipy|self|sklearn|sys|tf"
    "|torch|Math|System"
)

_SYMBOLS = rf"""
  {HOLE}++
| (?P<ticks>`++)
| (?<!\$)\$\$(?!\$)(?:{_FORMULA}|\$(?!\$))++\$\$
| \$\{{[^{{}}\n]++\}}
| (?P<dollar>(?<![A-Za-z0-9$\\])\$(?![\s$]){_FORMULA}++(?<!\s)\$(?![\dA-Z{{_$]))
| (?<![A-Za-z0-9$\\])\$[A-Z_][A-Z0-9_]++(?![\w$])
| \\\((?:[^\\\n]|\\[^()\n]|{_SAME_PARAGRAPH})*+\\\)
| \\\[(?:[^\\]|\\[^\[\]])*+\\\]
| (?P<latex>\\{{1,2}}[A-Za-z]++\*?)
| (?<!\S)\\\\[A-Za-z0-9.-]++(?:\\[A-Za-z0-9._$-]++)++
| (?P<escape>\\[$`{{}}\\])
| \{{\{{[^{{}}\n]*+\}}\}} | \{{%(?:[^{{}}%\n]|%(?!\}}))*+%\}}
| \{{{_FIELD}(?::[^{{}}\s]*+)?+\}}
| (?P<json>\{{(?=\s*+")|\[(?=\s*+\{{))
| (?<![A-Za-z0-9%])(?:{_FORMAT})++(?![A-Za-z0-9])
| (?P<comment><!--)
| (?P<element><(?i:script|style|pre|code)(?=[\s>]))
| <\|[^|<>\s]++\|> | <</?SYS>>
| <(?:https?|ftp|mailto):[^<>\s]++> | <[^<>\s@]++@[^<>\s@]++>
| {_TAG} | <[!?][A-Za-z][^<>]*+>
| {MARK}
| &(?:amp;)*+(?:[A-Za-z][A-Za-z0-9]{{1,31}}+|\#\d{{1,7}}+|\#[xX]{_HEX}{{1,6}}+);
| &(?:amp;)++
| \[/?(?:INST|SYS|PAD|CLS|SEP|MASK|UNK|BOS|EOS)\]
| \[\^[^\]\s]{{1,30}}+\](?!:) | (?<=\S)\[\^[^\]\s]{{1,30}}+\]
| (?<![^\r\n])\[[^\[\]\n^][^\[\]\n]*+\]:{_LINK_TARGET}
| (?P<label>\[[^\[\]\n^][^\[\]\n]*+\](?:\[\])?)
| (?<=\])\((?:<[^<>\n]*+>|[^\s()<>]*+(?:\([^\s()]*+\)[^\s()<>]*+)*+){_LINK_TITLE}\s*+\)
| (?<![\w&])\#(?:(?=[a-fA-F]{{0,7}}\d)(?:{_HEX}{{8}}|{_HEX}{{6}})
    |(?P<digit>{_HEX})(?P=digit){{2}}(?:(?P=digit){{3}})?)(?!\w)
| (?P<path>(?<![\w/.~:<])(?:~{_ASCII_PATH}++|(?:\.\.?)?{_ASCII_PATH}{{2,}}+)/?)
| (?<![^\s(\["'])--[a-z][a-z0-9]*+(?:-[a-z0-9]++)*+(?:=[^\s,;)"'`]++)?+(?![\w-])
"""

_WORDS = rf"""
  (?P<url>(?i:(?:https?|ftps?|sftp|ssh|git|wss?|file|s3|gs|hf)://|www\.(?=[a-z0-9])){_URL}++)
| (?<![._%+-])[A-Za-z0-9._%+-]++(?:'[A-Za-z0-9._%+-]++)*+@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++
| (?P<drive>[C-HZc-hz]:\\(?:{_FOLDER})?+(?:\\++{_FOLDER})*+\\?)
| (?<![./\\_-])(?:[A-Za-z0-9_.-]++/)*+(?:[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]++)*?\.(?:{_EXTENSIONS})
    |{_WORD}{{3,}}+\.[ch])(?![A-Za-z0-9_-])(?!\.[A-Za-z0-9])
| (?<![._])(?:{_NAME}(?:\.{_NAME})*+\(\)|(?:{_NAME}(?:\.{_NAME})++|_*+[A-Za-z0-9]++_{_WORD}*+
    |[a-z]{{2,}}+[A-Z]{_WORD}*+){_ARGUMENTS})(?:\.{_NAME}(?:{_ARGUMENTS})?+)*+
| [A-Za-z0-9]++(?:_++[A-Za-z0-9]++)++(?:\.{_NAME})*+
| (?:{_MODULES})(?:\.{_NAME})++
| console\.(?:log|error|warn|info)(?![A-Za-z])
| (?<!\.)[a-z]{{2,}}+(?:\.[a-z_]{{2,}}+[0-9]*+){{2,}}+(?![A-Za-z0-9])
| [a-z]{{2,}}+(?:\.[a-z]{{2,}}+[A-Z][A-Za-z0-9]*+)++
| (?P<domain>(?<![A-Za-z0-9.-])(?:[a-z0-9-]++\.(?=[a-z0-9]))++
    (?:com|org|net|edu|gov|io)(?![A-Za-z0-9-])(?:/{_URL}*+)?+)
| v\d++(?:\.\d++)++(?:-[a-z0-9]++(?:\.[a-z0-9]++)*+)?+(?![A-Za-z0-9])
"""

# Each half begins with a cheap look at what is there, since it is tried at every character.
_SCANNER = compile_possessive(
    rf"(?=[{HOLE}`$\\{{%<＜&\[(#/~.-])(?:{_SYMBOLS})"
    rf"|(?<![A-Za-z0-9])(?=_{{0,2}}+[A-Za-z0-9]++(?:[_@(/\\+%-]|:[/\\]|\.[A-Za-z0-9_-]"
    rf"|'[A-Za-z0-9._%+-]++@))(?:{_WORDS})",
    re.VERBOSE,
)
_TAG_HERE = compile_possessive(_TAG)
_DEFINITION = compile_possessive(
    rf"(?<![^\r\n])\[([^\[\]\n^][^\[\]\n]*+)\]:{_LINK_TARGET}",
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n")
_COMMENT_END = re.compile("-->")
_ELEMENT_ENDS = {
    name: re.compile(rf"</{name}\s*+>", re.IGNORECASE)
    for name in ("script", "style", "pre", "code")
}
# Between two dollars that are money: words of prose, or an amount and a word.
_PROSE = re.compile(r"[^\W\d_]{3,}[ ,.]+[^\W\d_]{2,}|\A\d[\d.,]*+ +[^\W\d_]{2,}")
# Old quotation marks, `so' and ``so'', are no code.
_QUOTE_END = re.compile(r"""\w'+[\s.,;:!?)]""")
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)


def inline_spans(text: str, start: int, end: int) -> list[Span]:
    """The spans within text[start:end], in order; none is empty and no two overlap."""
    spans: list[Span] = []
    openers = _Openers(text, start, end)
    at = start
    while match := _SCANNER.search(text, at, end):
        stop = openers.end_of(match)
        if stop is None:
            at = match.end() if match.lastgroup in ("ticks", "escape") else match.start() + 1
        else:
            spans.append((match.start(), stop))
            at = stop
    return spans


class _Openers:
    """Where a span ends of which the scanner has matched the opener; `None` where it is none."""

    def __init__(self, text: str, start: int, end: int):
        self._text = text
        self._end = end
        self._latex = Latex(text, start, end)
        self._next: dict[re.Pattern[str], tuple[int, re.Match[str] | None]] = {}
        self._runs: dict[int, list[int]] | None = None
        self._broken_json_until = 0

    def end_of(self, match: re.Match[str]) -> int | None:
        match match.lastgroup:
            case "ticks":
                return self._inline_code(match)
            case "dollar":
                prose = "\\" not in match[0] and _PROSE.search(match[0][1:-1])
                return None if prose else match.end()
            case "escape":
                return None
            case "label":
                name = match[0].removesuffix("[]")[1:-1].casefold()
                return match.end() if name in _labels(self._text) else None
            case "latex":
                return self._latex.end_of(match)
            case "json":
                return self._json(match)
            case "comment":
                closer = self._find(_COMMENT_END, match.end())
                return closer.end() if closer else None
            case "element":
                return self._element(match)
            case "url" | "domain" | "path" | "drive":
                return _without_punctuation(self._text, *match.span())
        return match.end()

    def _find(self, pattern: re.Pattern[str], at: int) -> re.Match[str] | None:
        """The first match from `at` on, where `at` only grows: no stretch is searched twice."""
        searched, found = self._next.get(pattern, (-1, None))
        if searched < 0 or (found is not None and found.start() < at):
            found = pattern.search(self._text, at, self._end)
            self._next[pattern] = (at, found)
        return found

    def _inline_code(self, match: re.Match[str]) -> int | None:
        """CommonMark's: up to the next run of as many backticks, within the paragraph."""
        if self._runs is None:
            self._runs = {}
            for run in re.compile("`+").finditer(self._text, match.start(), self._end):
                self._runs.setdefault(len(run[0]), []).append(run.start())
        start, width = match.end(), len(match[0])
        # A run whose first backtick is escaped is shorter than the one in the text.
        runs = self._runs.get(width, [])
        closer = bisect_left(runs, start)
        if closer == len(runs):
            return None
        stop = runs[closer]
        # Three or more are a fence that does not begin its line: it may hold blank lines.
        if width < 3:
            blank = self._find(_BLANK_LINE, start)
            if blank and blank.end() <= stop:
                return None
            if _is_quotation(self._text, start, stop, width):
                return None
        return stop + width

    def _element(self, match: re.Match[str]) -> int | None:
        closer = self._find(_ELEMENT_ENDS[match[0][1:].lower()], match.end())
        if closer:
            return closer.end()
        tag = _TAG_HERE.match(self._text, match.start(), self._end)
        return tag.end() if tag else None

    def _json(self, match: re.Match[str]) -> int | None:
        if match.start() < self._broken_json_until:
            return None
        try:
            _, stop = _JSON.raw_decode(self._text, match.start())
        except json.JSONDecodeError as error:
            self._broken_json_until = error.pos
            return None
        except RecursionError:
            self._broken_json_until = self._end
            return None
        return stop if stop <= self._end else None


@lru_cache(maxsize=1)
def _labels(text: str) -> set[str]:
    """The labels for which a line of the text says where links lead to."""
    if "]:" not in text:
        return set()
    return {label.casefold() for label in _DEFINITION.findall(text)}


def _is_quotation(text: str, start: int, stop: int, width: int) -> bool:
    """The closing backticks open another quotation: ``so'' and ``so''."""
    opens = not text[stop - 1].isalnum() and text[stop + width : stop + width + 1].isalnum()
    return opens and _QUOTE_END.search(text, start, stop) is not None


def _without_punctuation(text: str, start: int, end: int) -> int:
    """The end of an address without the marks of the sentence and brackets opened before it."""
    surplus = {
        closer: text.count(closer, start, end) - text.count(opener, start, end)
        for opener, closer in ("()", "[]")
    }
    while end > start + 1:
        last = text[end - 1]
        if surplus.get(last, 0) > 0:
            surplus[last] -= 1
        elif last not in ".,;:!?'*_~":
            break
        end -= 1
    return end
