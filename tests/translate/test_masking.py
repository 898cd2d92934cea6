"""What is hidden from the model, what is not, and that hiding loses nothing."""

import re
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_engine.translate.masking import HOLE, mask, read_marks, unmask, with_marks

# Pieces that begin, end or break spans, and what text may hold besides.
_BITS = st.sampled_from(
    [
        *["`", "~", "$", "\\", "{", "}", "[", "]", "(", ")", "<", ">", "/", "|", "&"],
        *["%", "#", "@", "_", "-", ".", ":", ";", "=", "*", "'", '"', "!", "a", "n", "x"],
        *["1", "9", " ", "\n", "\r", "\t", HOLE, "\u200f", "\u202b", "\u2066", "\ud800"],
        *["م", "٣", "＜", "＞", "😀", "\u2028", "```", "~~~", "``", "$$", "<x1/>", "<x2>"],
        *["</x1>", "< x 3 / >", "\n\n", "\\(", "\\)", "\\[", "\\]", "\\frac"],
        *["\\begin{a}", "\\end{a}", "{name}", '{"a": 1}', "<!--", "-->", "<pre>"],
        *["</pre>", "https://a.b/", "a@b.co", "f_g(x)", "np.a", "v1.2", "--flag"],
        *["C:\\d", "def f(x):\n", "import os\n", "x = 1;\n", "    return x\n", "> "],
        *["- ", "1. ", "](", "&lt;"],
    ]
)
_TEXTS = st.one_of(st.lists(_BITS, max_size=40).map("".join), st.text(max_size=80))


@settings(max_examples=1000)
@given(_TEXTS)
def test_unmasking_gives_back_any_text(text):
    masked = mask(text)
    assert unmask(*masked) == text
    assert masked.text.count(HOLE) == len(masked.spans)
    assert all(masked.spans)


@settings(max_examples=1000)
@given(_TEXTS)
def test_marks_of_an_unchanged_prompt_read_back(text):
    masked = mask(text)
    count = len(masked.spans)
    assert read_marks(with_marks(masked.text), count) == (masked.text, list(range(count)))


_SPANS = {
    # Inline code.
    "Run `ls -l` now.": ["`ls -l`"],
    "Use ``a ` b`` here": ["``a ` b``"],
    "two `a` and `b`": ["`a`", "`b`"],
    "over `a\nline` end": ["`a\nline`"],
    "not over `a\n\nparagraph` end": [],
    "an open ` tick": [],
    "He said `hello' and `bye' to me.": [],
    "He said ``hello'' and ``bye'' to me.": [],
    "escaped \\`tick\\` here": [],
    "**`bold`** text": ["`bold`"],
    "`one` `two` done": ["`one` `two`"],
    "code ```a = 1\n\nb = 2``` inline": ["```a = 1\n\nb = 2```"],
    # Fences.
    "See:\n```python\nx = 1\n```\nDone": ["```python\nx = 1\n```"],
    "~~~\na\n\nb\n~~~": ["~~~\na\n\nb\n~~~"],
    "````md\n```\nx\n```\n````\nend": ["````md\n```\nx\n```\n````"],
    "1. Do:\n   ```sh\n   ls\n   ```\n2. Next": ["```sh\n   ls\n   ```"],
    "- ```\n  x\n  ```\n- y": ["```\n  x\n  ```"],
    "> ```\n> x\n> ```\n> y": ["```\n> x\n> ```"],
    "Open:\n```js\nlet a;\n\nb()\n": ["```js\nlet a;\n\nb()"],
    "a\r\n```\r\nx\r\n```\r\nb": ["```\r\nx\r\n```"],
    "Code: ```python\nx\n\ny\n```\nThis explains.": ["```python\nx\n\ny\n```"],
    "```python\nf()```\nThis explains.": ["```python\nf()```"],
    "Code: ```python\r\nx\r\n\r\ny\r\n```\r\nend.": ["```python\r\nx\r\n\r\ny\r\n```"],
    "The mark is ```\nand no more": [],
    # Pasted code.
    "Fix:\n\ndef f(x):\n    y = x + 1\n\n    return y\n\nThanks.": [
        "def f(x):\n    y = x + 1\n\n    return y"
    ],
    "Here:\nimport os\nimport sys\nWhat is it?": ["import os\nimport sys"],
    "#include <stdio.h>\nint main() {\n  return 0;\n}\n": [
        "#include <stdio.h>\nint main() {\n  return 0;\n}"
    ],
    "public class A {\n  private int x;\n}": ["public class A {\n  private int x;\n}"],
    "for (int i = 0; i < 3; i++) {\n  sum += i;\n}": [
        "for (int i = 0; i < 3; i++) {\n  sum += i;\n}"
    ],
    "What does it do?\nSELECT name FROM users\nWHERE age > 3;": [
        "SELECT name FROM users\nWHERE age > 3;"
    ],
    'print("x")': ['print("x")'],
    "What is printed?\nprint(2 ** 3)": ["print(2 ** 3)"],
    "import numpy as np": ["import numpy as np"],
    "@app.route('/a')\ndef a():\n\treturn 1\nWhy?": ["@app.route('/a')\ndef a():\n\treturn 1"],
    "pip install -r requirements.txt": ["pip install -r requirements.txt"],
    "Then\ngit add .\ngit commit -m x\nand go": ["git add .\ngit commit -m x"],
    "pip install fails on windows": [],
    "git commit message conventions": [],
    "git push --force is dangerous": ["--force"],
    "long story;\nprivate parking (free);\nfor sale in Paris (2020):\nfor those in need:": [],
    "class schedule:\nreturn home\nreturn to me\n": [],
    ">>> quoted mail\n>> and more": [],
    ">>> x = 1": [">>> x = 1"],
    "x <- rnorm(5)\ny <- mean(x)": ["x <- rnorm(5)\ny <- mean(x)"],
    "# Title\n\nSome text; more text;\nand so on;\n": [],
    "import duties are high": [],
    "from here to there\nfor the following reasons:\nif so:\n": [],
    "Roses are red;\nviolets are blue;\nsugar is sweet;": [],
    "Solve:\nx = 5\ny = 3": [],
    "return to sender\nclass is over": [],
    "SELECT YOUR CHARACTER\nFROM THE LIST": [],
    # HTML.
    "Line<br>next<br/>end": ["<br>", "<br/>"],
    '<p class="a b">Hi</p>': ['<p class="a b">', "</p>"],
    "<a href='x' disabled>go</a>": ["<a href='x' disabled>", "</a>"],
    "a <!-- no\n\nno --> b": ["<!-- no\n\nno -->"],
    "<script>var a = '<b>';</script> text": ["<script>var a = '<b>';</script>"],
    "<PRE>x y</PRE> and <code>z</code>": ["<PRE>x y</PRE>", "<code>z</code>"],
    "an <code> open": ["<code>"],
    "salt&nbsp;and &amp; &#39;": ["&nbsp;", "&amp; &#39;"],
    "AT&T; Q&A": [],
    "a < b and c > d": [],
    "if a<b and c>d then": [],
    "I <3 you": [],
    "x <- y -> z <= 3": [],
    "<!DOCTYPE html>\n<?xml version='1.0'?>": ["<!DOCTYPE html>", "<?xml version='1.0'?>"],
    # LaTeX.
    "so $x^2$ is": ["$x^2$"],
    "$$\na = b\n$$ done": ["$$\na = b\n$$"],
    "in \\(a+b\\) and \\[c\n\nd\\].": ["\\(a+b\\)", "\\[c\n\nd\\]"],
    "\\begin{align}a &= b\\\\\n\\end{align} ok": ["\\begin{align}a &= b\\\\\n\\end{align}"],
    "\\begin{a}\\begin{a}x\\end{a}\\end{a} y": ["\\begin{a}\\begin{a}x\\end{a}\\end{a}"],
    "value \\frac{a}{\\sqrt{b}} here": ["\\frac{a}{\\sqrt{b}}"],
    "angle \\alpha or \\sum_{i=1}^{n} i": ["\\alpha", "\\sum_{i=1}^{n}"],
    "\\textbf{bold {x}} word": ["\\textbf{bold {x}}"],
    "the $n$th of $k$-sets, $5x$": ["$n$", "$k$", "$5x$"],
    "I paid $5 and $10": [],
    "$5-$10, or 5$, 10$ or US$3 and HK$4": [],
    "costs $20,000 (about $3 more)": [],
    "escaped \\$5 and \\$6": [],
    "a $ b $ c": [],
    "open $x and\n\nclose$ y": [],
    "line one\\nline two\\tand three": [],
    "a lone \\ here \\": [],
    # Links and addresses.
    '[text](https://a.b/c_(d) "t") end': ['(https://a.b/c_(d) "t")'],
    "![alt text](img/a.png)": ["(img/a.png)"],
    "see [sic](not a link) ok": [],
    '[id]: https://a.b/c "Title"': ['[id]: https://a.b/c "Title"'],
    "a [Text][b], [B][], [b] and [c]\n[b]: /d": ["[b]", "[B][]", "[b]", "[b]: /d"],
    "a [Text][b] of a [b]": [],
    "[Ann]: Hello there, [Ann]": [],
    "[^1]: A footnote with text.": [],
    "Said.[^1] Done[^note]: yes": ["[^1]", "[^note]"],
    "Go to https://example.com/a?b=c&d=e#f.": ["https://example.com/a?b=c&d=e#f"],
    "(see http://a.b/c_(d))": ["http://a.b/c_(d)"],
    "www.example.org, ftp://x.y/z!": ["www.example.org", "ftp://x.y/z"],
    "زر https://a.b/م، ثم": ["https://a.b/م"],
    "<https://a.b> and <me@x.org>": ["<https://a.b>", "<me@x.org>"],
    "**https://a.b**": ["https://a.b"],
    "[https://a.b](https://a.b)": ["https://a.b", "(https://a.b)"],
    "Mail first.last+x@mail.example.co.uk.": ["first.last+x@mail.example.co.uk"],
    "Mail o'neil@x.org, don't, 'a@b.cc'": ["o'neil@x.org", "a@b.cc"],
    "write &amp;lt; or &amp;amp; for R&D": ["&amp;lt;", "&amp;amp;"],
    "visit example.com/a now": ["example.com/a"],
    "follow @someone at 5": [],
    # Placeholders and tokens.
    "Dear {name}, {{ city }} {0} {}": ["{name}", "{{ city }} {0} {}"],
    "{user.name!r:>10} ${HOME} $PATH": ["{user.name!r:>10} ${HOME} $PATH"],
    "%(name)s is %d, %1$s, %5.2f": ["%(name)s", "%d", "%1$s", "%5.2f"],
    "50% of 20%, 5%d": [],
    "{ alone, and } or {a b}": [],
    "{% if x %}yes{% endif %}": ["{% if x %}", "{% endif %}"],
    "<|im_end|> [INST] hi [/INST] <<SYS>>": ["<|im_end|> [INST]", "[/INST] <<SYS>>"],
    "a [MASK] of [Name]": ["[MASK]"],
    'Parse {"a": [1, {"b": "}"}]} now': ['{"a": [1, {"b": "}"}]}'],
    'List [{"a": 1}, {"b": 2}] and [1, 2]': ['[{"a": 1}, {"b": 2}]'],
    'broken {"a": 1, and {"b": 2}': ['{"b": 2}'],
    # Names.
    "call get_data(x, y=1) or getData() or print()": ["get_data(x, y=1)", "getData()", "print()"],
    "the max_len_ value, _emph_ word": ["max_len"],
    "np.array, os.path.join and console.log": ["np.array", "os.path.join", "console.log"],
    "foo.bar().baz(1)": ["foo.bar().baz(1)"],
    "use --dry-run or --out=x.txt": ["--dry-run", "--out=x.txt"],
    "in /usr/local/bin/x, ~/.bashrc, ./a/b": ["/usr/local/bin/x", "~/.bashrc", "./a/b"],
    "C:\\new\\file.txt. C:\\new": ["C:\\new\\file.txt", "C:\\new"],
    "in C:\\Users\\<name>\\AppData.": ["C:\\Users\\<name>\\AppData"],
    "open src/main.py, data.json or hello.c.": ["src/main.py", "data.json", "hello.c"],
    "colour #ff00aa or #FFF, issue #12": ["#ff00aa", "#FFF"],
    "since v1.2.3-beta.1, not 1.2": ["v1.2.3-beta.1"],
    "متغير my_var في الملف main.py": ["my_var", "main.py"],
    "e.g. this, i.e. that, U.S. at 5 a.m. on the 3.5 iPhone(s)": [],
    "YouTube, McDonald, snake case, well-known": [],
    "I went home.then I slept--really": [],
    "and/or he/she/they on 1/2/2020 at 5:30": [],
    "Fill in: The ____ is ___.": [],
    "hi \u202bمرحبا\u202c 😀 there": [],
    f"a {HOLE} b": [HOLE],
    "a <x1/> and < X2 > and <x٣/>": ["<x1/>", "< X2 >", "<x٣/>"],
    "": [],
}


@pytest.mark.parametrize("text", _SPANS)
def test_spans(text):
    assert list(mask(text).spans) == _SPANS[text]


def test_holes_stand_where_the_spans_were():
    assert mask("Run `a` then\n\n```\nb\n```\nend").text == f"Run {HOLE} then\n\n{HOLE}\nend"


def test_unmask_refuses_another_number_of_holes():
    with pytest.raises(ValueError, match="1 holes for 2 spans"):
        unmask(f"a{HOLE}", ["x", "y"])


_ANSWERS = {
    ("<x2/> ثم <x1/>", 2): (f"{HOLE} ثم {HOLE}", [1, 0]),
    ("<x1>", 1): (HOLE, [0]),
    ("a < X1 / > b", 1): (f"a {HOLE} b", [0]),
    ("</x1>", 1): (HOLE, [0]),
    ("<x1></x1>.", 1): (f"{HOLE}.", [0]),
    ("<x١/> <x۲/>", 2): (f"{HOLE} {HOLE}", [0, 1]),
    ("＜x1/＞", 1): (HOLE, [0]),
    ("<\u200fx1\u200f/>", 1): (HOLE, [0]),
    ("<x1/>", 2): None,
    ("<x1/><x1/>", 1): None,
    ("<x1/><x3/>", 2): None,
    ("<x0/>", 0): None,
    ("<x1/>", 0): None,
    ("", 1): None,
    ("no marks", 0): ("no marks", []),
    ("a < b", 0): ("a < b", []),
    (f"a{HOLE}b", 0): ("ab", []),
    (f"{HOLE}<x1/>", 1): (HOLE, [0]),
    (f"{HOLE}", 1): None,
}


@pytest.mark.parametrize(("answer", "count"), _ANSWERS)
def test_marks_in_answers(answer, count):
    assert read_marks(answer, count) == _ANSWERS[answer, count]


# Openers without ends, alone and mixed, that a careless scanner reads again and again.
_HOSTILE = [
    *["`", "$", "{", "<", "[", "(", "\\", "\\(", "\\[", "_", ".", "/", "%", "&", "#"],
    *["@", "-", "~", "a_", "a.", "a/", "a@", "a-", "a._", "aa.", "`a\n\n", "``` `` ` "],
    *["```\n", "> ", "- ", ">", "$a ", "$$a", "$a\\$", "<a ", '<a x="', "<a x=y "],
    *["<!-- ", "<pre>", "<code ", "&a", "](", "]((", '](a "', '{"a":', '[{"a":', "{{"],
    *["${", "%(a", "{a", "\\a{", "\\begin{a}", "\\frac{", "\\a[", "\\a_{", "http://"],
    *["http://a)", "www.", "a@a.", "--a-", "C:\\", "f_(a,", "f_(", "a.b(", "v1."],
    *["[a]: ", "def f()->", "def f(\n", "x = ", "for (", "import a\n", "if (\n", ";\n"],
    *["{\n", "}\n", "\n", " \n", "\t", "<x", "< ", "<x1", "＜", "\r", "~~~ ", "1. ", "* "],
    *["- > ", HOLE + "a", "#a", '"', "class a"],
]


@pytest.mark.parametrize("unit", _HOSTILE, ids=ascii)
def test_hostile_text_takes_time_that_grows_with_its_length(unit):
    text = (unit * 100_000)[:100_000]
    for hostile in (text, f"```\n{text}", f"```x\n{text}", f"a ``` {text}`{text}``"):
        start = process_time()
        assert unmask(*mask(hostile)) == hostile
        assert process_time() - start < 2


def test_long_documents_are_quick():
    page = (
        "A paragraph of prose, with `code`, a [link](https://a.b/c) and $x^2$.\nThen more of it "
        "follows (in brackets), 3.5 times.\n\n```python\nprint(1)\n```\n\n- an item\n- one more\n\n"
    )
    text = page * (100_000 // len(page))
    mask(text)
    times = []
    for _ in range(3):
        start = process_time()
        mask(text)
        times.append(process_time() - start)
    assert min(times) < 0.5, "0.06 s are usual"


def test_plain_prose_is_not_scanned():
    text = "Plain prose, with commas; dashes - and (brackets): is it read? Yes! " * 2
    start = process_time()
    for _ in range(1000):
        mask(text)
    assert process_time() - start < 0.05, "2 ms are usual"


def test_marks_are_numbered_from_one():
    assert with_marks(f"a {HOLE} b {HOLE}") == "a <x1/> b <x2/>"
    assert re.findall(r"\d", with_marks(HOLE * 3)) == ["1", "2", "3"]
