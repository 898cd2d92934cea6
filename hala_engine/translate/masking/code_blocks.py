"""Code that takes whole lines: fenced as Markdown has it, or pasted as it is.

Lines are told apart by what they look like. `_SURE` lines are code even alone; `_STRONG` ones
need a second one near them; `_WEAK` ones belong to the code that they stand in.
"""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt

from hala_engine.translate.masking.inline_spans import Span
from hala_engine.translate.possessive import compile_possessive

# Words that code may begin with though it has no sign that prose lacks.
CODE_KEYWORDS = (
    r"(?:import|from|return|def|class|elif|except|const|let|var|public|private|library|SELECT"
    r"|INSERT|CREATE|ALTER|DELETE|pip3?|npm|git|docker|sudo|apt|apt-get|conda|>>>)[ (]"
)

_NAME = r"[A-Za-z_]\w*+"
_DOTTED = rf"{_NAME}(?:\.{_NAME})*+"
_SURE = compile_possessive(
    rf"""\s*+(?:
      (?:async[ ])?def[ ]{_NAME}\(.*\)(?:[ ]*->.*)?:
    | class[ ][A-Z]\w*+(?:\(.*\))?:\s*\Z | class[ ]{_NAME}[^.]*\{{
    | from[ ]{_DOTTED}[ ]import[ ](?:{_DOTTED}|\*|\()(?:,?[ ]\w+)*\)?\s*\Z
    | import[ ]{_DOTTED}[ ]as[ ]{_NAME}\s*\Z | import[ ]{_NAME}(?:\.{_NAME})++;?\s*\Z
    | import[ ](?:os|sys|re|json|math|random|time|datetime|numpy|pandas|torch)(?:,[ ]?\w+)*\s*\Z
    | import[ ].+[ ]from[ ]['"]
    | (?:print|printf|println|console\.\w+|System\.out\.\w+|fmt\.\w+|echo)\(.*\);?\s*\Z
    | for[ ][\w, ()]+[ ]in[ ]\w[\w.]*\(.*\):\s*\Z
    | (?:if|for|while|switch)[ ]?\(.*\)[ ]*\{{
    | (?:function|func|fn)[ ]+{_NAME}\s*(?:<.*>)?\(.*\{{
    | (?:const|let|var)[ ]{_NAME}(?:[ ]*:[ ]*[\w<>\[\]]+)?[ ]=[ ].*[;({{\[]\s*\Z
    | (?:public|private|protected)[ ](?:static[ ]|final[ ]|abstract[ ]|override[ ])*[\w<>\[\]]+
        (?:[ ]{_NAME})?(?:\(|[ ]*[{{=])
    | (?:int|long|float|double|char|bool|boolean|void|string|String|auto)[ *&]+{_NAME}(?:\[\w*\])*
        (?:[ ]*=.*;|\(.*\)\s*[{{;]?)\s*\Z
    | \#[ ]*include[ ]*[<"] | \#define[ ]\w | \#!/ | using[ ]namespace[ ]\w+; | std:: | <\?php
    | SELECT[ ].+[ ]FROM[ ]\S | INSERT[ ]INTO[ ]\S+.*(?:VALUES|\() | DELETE[ ]FROM[ ]\w+[ ]WHERE
    | CREATE[ ](?:TABLE|INDEX|VIEW|DATABASE)[ ]\S*[a-z_`(;] | ALTER[ ]TABLE[ ]\S*[a-z_`]
    | @(?:property|staticmethod|classmethod|Override|Test|Autowired)\s*\Z | @\w+\.\w+\(.*\)\s*\Z
    | (?:pip3?|conda|npm|sudo|apt|apt-get|git|docker)[ ]
        (?!.*\b(?:is|are|the|what|how|does|why|when|not)\b)\w.*[ ]--?[a-z][\w-]*+(?![.?!])
    | >>>[ ](?:[\w.]+[ ]*[=(\[]|import[ ]|from[ ]|for[ ]|[\d(\[{{"']) | self\.\w+[ ]*[-+*/]?=
    | {_NAME}[ ][-+*/]?=[ ](?:{_NAME}\.)++{_NAME}\(.*
    | {_NAME}(?:\.{_NAME})++\(.*\);?\s*\Z
    | library\({_NAME}\)\s*\Z
    )""",
    re.VERBOSE,
)
_STRONG = re.compile(
    r"""\s*+(?!\\)(?:
      import[ ][\w.*]+;?\s*\Z
    | return\b(?:[^?!]*[()\[\]{}=+*/"][^?!]*)?;?\Z
    | (?:int|long|float|double|char|bool|private|public|protected)[ ][\w<>\[\], *]+;\s*\Z
    | for[ ]\w+(?:,[ ]?\w+)*[ ]in[ ](?:[\w.]+|[\w.]+[(\[].*):\s*\Z
    | (?:pip3?|conda|npm|apt|apt-get|git|docker|sudo)[ ](?:install|update|clone|commit|push|pull|run
        |init|add|checkout|build|apt|apt-get|systemctl)\b(?!.*\w[.?!]\s*\Z)
    | \$[ ](?=[a-z./])\S+
    | (?:if|elif|while|with)[ ].*(?:[=!<>]=|[<>(\[]|\bis[ ]None|\bnot[ ]).*:\s*\Z
    | elif[ ].*:\s*\Z | except(?:[ ]\w+(?:[ ]as[ ]\w+)?)?:\s*\Z
    | (?:const|let|var)[ ]\w+[ ]=[ ]\S | (?:switch|catch|while|if|for|foreach)[ ]?\(.*\)\s*\{?\s*\Z
    | \}[ ]*(?:else|catch|finally|while)?.*[{;]?\s*\Z
    | [^\\]*[\w)\]>"'=][ ]*\{\s*\Z
    | (?:[^\\]*(?:\w\(.*\)|=|\+\+|--|::|->|\w\[|<<)|break|continue|return\b)[^\\]*;\s*\Z
    | (?:FROM|JOIN|INNER[ ]JOIN|LEFT[ ]JOIN)[ ][a-z_`"][\w.`"]*(?:[ ]\w+)*;?
    | (?:GROUP|ORDER)[ ]BY[ ]\S+ | WHERE[ ]\S+[ ](?:[=<>]+|LIKE|IN|IS|BETWEEN)[ ]
    | SELECT[ ]\S | INSERT[ ]INTO[ ] | CREATE[ ]TABLE[ ]
    | [A-Za-z_][\w.]*+[ ]<-[ ][\w"'] | @\w+\(.*\)\s*\Z | cd[ ][\w./~-]+\s*\Z | export[ ]\w+=
    | curl[ ]\S
    )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"\s*+(?:#(?!#)|//|/\*|\*[ /]|--[ ])")
_WEAK = re.compile(
    r"""\s*+(?:
      [\w.\[\]'"$]+(?:,[ ]\w+)*[ ]*[-+*/|&:]?=[ ]*\S(?:.*[^.?!])?\Z
    | [\w.]+\(.*\)[,;]?\s*\Z
    | (?:try|else|finally|do|begin|BEGIN|then|fi|done|end|END|endif|esac|pass|break
        |continue)[:;]?\s*\Z
    | [\[\](){}]+[,;]?\s*\Z | return[ ]\S+\s*\Z
    | ["'].*["'],?\s*\Z | ["'][\w-]+["'][ ]*:[ ]*\S
    | [a-z-]+:[ ]*[^;]+;\s*\Z
    | (?:SET|VALUES|AND|OR|LIMIT|HAVING|ON)[ ]\S
    )""",
    re.VERBOSE,
)
# The patterns may read a line once for each of its brackets.
_LONGEST_LINE = 400
_KINDS = (("sure", _SURE), ("strong", _STRONG), ("comment", _COMMENT), ("weak", _WEAK))
# Decides most lines at once: a capitalised word of a sentence, or a letter that is not ASCII.
_PROSE = re.compile(r"\s*+(?:[^\W\d_A-Za-z]|[A-Z][a-z']*+[ ,](?!.*[=;{}<]))")
_OPENS_BLOCK = re.compile(r"[:{(\[,\\]\s*\Z")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")
_LINE = re.compile(r"[^\r\n]+")

_BLOCKS = MarkdownIt("commonmark")
_BLOCKS.core.ruler.enableOnly(["normalize", "block"])
_BLOCKS.disable(["html_block", "lheading", "reference", "heading"])
_CONTAINERS = r"[ \t]*+(?:(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))[ \t]*+)*+"
_BEFORE_FENCE = compile_possessive(_CONTAINERS)
# A line of other text that a fence ends: "Code: ```python", or "run()```" at the end of one.
_FENCE_AFTER_TEXT = compile_possessive(
    rf"^(?!{_CONTAINERS}[`~])([ \t>]*+)[^`\r\n]*+(```[\w+#.-]*+[ \t]*+)(?=\r?$)", re.MULTILINE
)
_FENCE_LINE = compile_possessive(rf"^{_CONTAINERS}(?:```|~~~)", re.MULTILINE)
_LINE_START = re.compile(r"\r\n|\r|\n")
_FENCE_END = re.compile(r"(?:`{3,}|~{3,})\s*\Z")


def code_blocks(text: str) -> list[Span]:
    """The spans of fenced and of pasted code, in order, without the line ends around them."""
    fences = _fences(text) if "```" in text or "~~~" in text else []
    blocks: list[Span] = []
    at = 0
    for start, end in [*fences, (len(text), len(text))]:
        blocks += _pasted_code(text, at, start)
        if start < end:
            blocks.append((start, end))
        at = end
    return blocks


def _fences(text: str) -> list[Span]:
    """Fences by CommonMark, and those that begin or end on a line of other text."""
    source = _FENCE_AFTER_TEXT.sub(r"\1\2", text)
    if not _FENCE_LINE.search(source):
        return []
    starts = [0, *(match.end() for match in _LINE_START.finditer(text)), len(text)]
    spans = []
    for token in _BLOCKS.parse(source):
        if token.type != "fence":
            continue
        first, after = (starts[min(line, len(starts) - 1)] for line in token.map)
        start = text.index(token.markup[:3], first)
        end = start + len(text[start:after].rstrip())
        begins_line = _BEFORE_FENCE.fullmatch(text, first, start)
        if begins_line or _FENCE_END.search(text, start + 3, end):
            spans.append((start, end))
    return spans


def _pasted_code(text: str, start: int, end: int) -> Iterator[Span]:
    """Runs of lines that are surely code, with the blank lines within."""
    run: list[tuple[int, int, str]] = []
    opened = False
    for line in _LINE.finditer(text, start, end):
        content = line[0]
        if content.isspace():
            continue
        kind = _kind(content, bool(run) and opened)
        if kind == "prose":
            yield from _code_of(text, run)
            run, opened = [], False
        else:
            run.append((line.start(), line.end(), kind))
            opened = opened or (kind != "comment" and _OPENS_BLOCK.search(content) is not None)
    yield from _code_of(text, run)


def _kind(line: str, in_block: bool) -> str:
    if not _PROSE.match(line) and len(line) <= _LONGEST_LINE:
        for kind, pattern in _KINDS:
            if pattern.match(line):
                return kind
    indented = in_block and line[0] in " \t" and not _LIST_ITEM.match(line)
    return "weak" if indented else "prose"


def _code_of(text: str, run: list[tuple[int, int, str]]) -> Iterator[Span]:
    """The run without the comments at its ends, if enough of it is code."""
    kinds = [kind for _, _, kind in run]
    sure, strong = kinds.count("sure"), kinds.count("strong")
    if not sure and (strong < 2 or 4 * strong < len(run)):
        return
    first = next(index for index, kind in enumerate(kinds) if kind != "comment")
    last = max(index for index, kind in enumerate(kinds) if kind != "comment")
    start, end = run[first][0], run[last][1]
    block = text[start:end]
    yield end - len(block.lstrip()), start + len(block.rstrip())
