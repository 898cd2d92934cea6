"""LaTeX outside of dollars: environments, and commands with their arguments."""

import re

# Commands that are recognised without an argument in braces. Others may be a literal "\n" or
# "\t" before a word, or a part of a path.
_KNOWN_NAMES = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
pi varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta
Lambda Xi Pi Sigma Upsilon Phi Psi Omega aleph hbar ell Re Im nabla partial infty emptyset
varnothing forall exists nexists neg lnot land lor wedge vee cap cup setminus subset subseteq
supset supseteq in notin ni pm mp times div cdot cdots ldots dots vdots ddots ast star circ
bullet oplus otimes odot dagger sum prod coprod int iint iiint oint bigcup bigcap lim limsup
liminf sup inf max min arg det dim ker gcd deg exp ln log lg sin cos tan cot sec csc arcsin
arccos arctan sinh cosh tanh leq le geq ge neq ne ll gg equiv sim simeq approx cong propto
mid nmid parallel perp angle triangle to gets mapsto rightarrow leftarrow leftrightarrow
Rightarrow Leftarrow Leftrightarrow longrightarrow longleftarrow Longrightarrow implies iff
uparrow downarrow rightharpoonup rightleftharpoons left right big Big bigg Bigg bigl bigr
langle rangle lfloor rfloor lceil rceil lbrace rbrace quad qquad displaystyle limits prime
therefore because square blacksquare Box qed mod bmod sqrt item hline centering
"""
_KNOWN = frozenset(_KNOWN_NAMES.split())
# A letter alone is an accent when it has an argument, save those that are escapes of strings.
_ESCAPES = frozenset("nrt")
_OPTION = re.compile(r"\[[^\[\]{}\n]*+\](?=\{)")
_SCRIPT = re.compile(r"[_^](?:\\[A-Za-z]++|[A-Za-z0-9*+'-])")
_BRACE = re.compile(r"\\[\s\S]|[{}]")
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([A-Za-z]++\*?+)\}")


class Latex:
    """Ends of LaTeX within text[start:end]. Brackets are paired once, if any is asked for."""

    def __init__(self, text: str, start: int, end: int):
        self._text = text
        self._start = start
        self._end = end
        self._groups: dict[int, int] | None = None
        self._environments: dict[int, int] | None = None

    def end_of(self, command: re.Match[str]) -> int | None:
        r"""Where the environment or the command \name with its arguments ends; None if neither."""
        name = command[0].lstrip("\\").rstrip("*")
        if name == "begin":
            stop = self._environment_ends().get(command.end() - len("\\begin"))
            if stop is not None:
                return stop
        known = name in _KNOWN
        stop = self._arguments_end(command.end(), known)
        if known or (stop > command.end() and name not in _ESCAPES):
            return stop
        return None

    def _arguments_end(self, at: int, scripts: bool) -> int:
        """The end of the [options], {arguments} and, if wanted, _{sub} and ^{superscripts}."""
        text = self._text
        while at < self._end:
            script = scripts and text[at] in "_^"
            if text.startswith("{", at + script):
                stop = self._group_ends().get(at + script)
            else:
                match = (_SCRIPT if script else _OPTION).match(text, at, self._end)
                stop = match.end() if match else None
            if stop is None:
                break
            at = stop
        return at

    def _group_ends(self) -> dict[int, int]:
        if self._groups is None:
            self._groups = {}
            opened: list[int] = []
            for match in _BRACE.finditer(self._text, self._start, self._end):
                if match[0] == "{":
                    opened.append(match.start())
                elif match[0] == "}" and opened:
                    self._groups[opened.pop()] = match.end()
        return self._groups

    def _environment_ends(self) -> dict[int, int]:
        if self._environments is None:
            self._environments = {}
            opened: dict[str, list[int]] = {}
            for match in _ENVIRONMENT.finditer(self._text, self._start, self._end):
                starts = opened.setdefault(match[2], [])
                if match[1] == "begin":
                    starts.append(match.start())
                elif starts:
                    self._environments[starts.pop()] = match.end()
        return self._environments
