"""The phrases of `replies`: each with its counterpart, what in a source makes it a translation.

Arabic is matched without its marks (`without_marks`), English in any case.
"""

import re

_MARKS = re.compile("[\u064b-\u065f\u0670\u0640\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Before the first word: white space, quotes, asterisks, hashes. Possessive, so that no text of
# punctuation alone is tried again from each of its characters.
_START = r"[\W_]*+"


def without_marks(text: str) -> str:
    """Arabic without vowel marks and tatweel, and no direction marks."""
    return _MARKS.sub("", text)


def _compiled(*alternatives: str, before: str = "") -> re.Pattern[str]:
    return re.compile(f"{before}(?:{'|'.join(alternatives)})", re.IGNORECASE)


_AGREES_EN = r"(?:sure(?: thing)?|certainly|of course|absolutely|definitely|gladly|ok(?:ay)?)"
_AGREES_AR = r"(?:بالتأكيد|بالتاكيد|بالطبع|طبعا|أكيد|بكل تأكيد|بكل سرور|حسنا|يسعدني ذلك|يسرني ذلك)"
_AGREES = f"(?:(?:{_AGREES_EN}|{_AGREES_AR})[\\W_]+)?"
_TEXT_EN = r"(?:text|sentence|passage|paragraph|phrase|question|following|above)"
_TEXT_AR = r"(?:النص|الجملة|الفقرة|العبارة|السؤال|هذا النص|هذه الجملة|ما يلي)"

PRESENTS = _compiled(
    # Here is the translation; here's your text in Arabic
    r"(?:here(?:['’]s| is| are| you go)|this is|below is|the following is)\b[^\n.:]{0,60}?"
    r"\b(?:translat\w+|arabic|english)\b",
    # Translation: / The Arabic translation of the text is / Translated text:
    r"(?:(?:the|my|arabic|english|full) ){0,2}translat(?:ion|ed(?: \w+)?)"
    r"(?: (?:to|into|in|of|from|for)\b[^\n:]{0,60}?)?[*_\"” ]*(?::| is\b| reads\b| would be\b)",
    r"(?:in )?(?:modern standard )?(?:arabic|english)(?: text| version)?[*_]*:",
    rf"(?:this|that|it|the {_TEXT_EN})(?: {_TEXT_EN})? (?:can be |is |would be )?"
    r"translate[sd]? (?:as|to|into)\b",
    r"i(?:['’]ll| will| would|['’]d| can| have|['’]ve)?(?: \w+){0,2} (?:translated?|translation)\b",
    r"(?:إليك|إليكم|اليك|اليكم|هذه|هذا|ها هي|ها هو|هنا|تفضل|فيما يلي|في ما يلي|أدناه)"
    r"(?: [^\s:.،]+){0,4}? (?:ال)?(?:ترجم|مترجم)\w*",
    rf"(?:ال)?ترجم[ةه](?: {_TEXT_AR})?(?: (?:إلى|الى|من|باللغة|ب|هي|بال)?\s?\w+){{0,4}}[*_]*\s*:",
    r"(?:النص|الجملة|النسخة) (?:المترجم|العربي)ة?[*_]*\s*:",
    r"(?:بال|باللغة ال|ال)(?:عربية|إنجليزية|انجليزية)[*_]*\s*:",
    rf"(?:يمكن ترجمة|تترجم|يترجم|سأترجم|سأقوم بترجمة|قمت بترجمة|لقد ترجمت) {_TEXT_AR}",
    before=_START + _AGREES,
)
"""The translation is announced, at the start of a line."""

# In other languages too, as far as their words for it resemble each other.
PRESENTS_COUNTERPART = _compiled(
    "transl|interpret|version|tradu|übers|перев|翻[译譯訳]|ترجم",
    "arab|engl|ingl|angl|араб|англ|阿拉伯|英[语語]|عرب|نجليز",
)

_HANDS_OVER = (
    r"here(?:['’]s| is| are) (?:the|your|a)\b[^\n.:]{0,60}:|(?:إليك|إليكم) |"
    r"(?:i['’]d|i would) be (?:happy|glad) to|happy to help|(?:يسعدني|يسرني) (?:أن|مساعدتك|ذلك)"
)
POLITE = _compiled(
    f"(?P<agrees>(?:{_AGREES_EN}[!,.:]|{_AGREES_AR}\\s*[!،,.:]))",
    f"(?P<hands_over>{_HANDS_OVER})",
    before=_START,
)
"""An assistant's first words, at the start of the text."""

_NOTE = (
    r"(?:translator['’]?s?['’]? )?notes?[*_ ]*:|"
    "(?:ملاحظة|ملاحظات|ملحوظة|تنويه|ملاحظة المترجم)[*_ ]*:"
)
_CLOSING = (
    r"i hope (?:this|that|it) (?:translation )?helps|let me know if\b|feel free to (?:ask|let)|"
    r"(?:آمل|أرجو|أتمنى) أن (?:[يت]كون|[يت]ساعد|[يت]فيد)\w*|"
    "إذا (?:كان لديك|كانت لديك|كنت بحاجة إلى|كنت تحتاج) (?:أي|المزيد|مزيد)"
)
AFTERWORD = _compiled(
    f"(?P<note>{_NOTE})",
    f"(?P<closing>{_CLOSING})",
    before=r"[\n.!?؟:*_(\[][\s*_(\[]*+",
)
"""A remark on the translation, or an assistant's last words, at the start of a sentence."""

COUNTERPARTS = {
    "agrees": _compiled(
        r"\b(?:sure|surely|certain|certainly|course|absolut\w+|definit\w+|natural\w*|obvious\w*)\b",
        r"\b(?:glad|gladly|please|pleasure|happy|delighted|indeed|yes|yeah|yep|right|all right)\b",
        r"\b(?:ok|okay|doubt|why not|well|fine|good|great|agreed|must)\b",
        "تأكيد|تاكيد|أكيد|اكيد|مؤكد|بالطبع|طبعا|الحال|سرور|يسعد|يسر|شك|نعم|أجل|حتما|قطعا|حسن|بلى|تماما|موافق",
    ),
    "hands_over": _compiled(
        r"\b(?:here|below|following|follows|this|these|there|you|take|happy|glad|pleas\w+)\b",
        "إليك|اليك|هذ[اه]|هاك|ها |هنا|يلي|تفضل|التالي|الآتي|أدناه|سعيد|يسعد|يسر|سرور",
    ),
    "note": _compiled(
        r"\bnot(?:e|es|ice)\b|\bn\.?b\b|\bp\.?s\b|remark|observ|important|\bhint|\btip\b|caution",
        "warn|ملاحظ|ملحوظ|تنويه|تنبيه|لاحظ|هام|مهم|تذكير",
    ),
    "closing": _compiled(
        r"\bhope|\blet (?:me|us) know|feel free|hesitate|if you (?:have|need|want)|\bplease",
        "آمل|أمل|أرجو|أتمنى|إذا كان|إذا كنت|لا تتردد|أخبرني|أعلمني|بلغني",
    ),
}
"""By the group of POLITE or AFTERWORD that was found."""

TALK = _compiled(
    r"as an? (?:ai\b|artificial|(?:large )?language model)",
    r"i(?:['’]m| am) (?:just |only )?an? (?:ai\b|artificial|(?:large )?language model|assistant)",
    r"(?:كنموذج|كذكاء|بصفتي|باعتباري) (?:\w+ )?(?:لغوي|لغة|ذكاء|اصطناعي|نموذج|نموذجا|مساعد|مساعدا)",
    r"كنموذج لغوي",
    r"أنا (?:مجرد )?(?:نموذج|ذكاء|مساعد) (?:لغوي|لغة|اصطناعي|ذكي|افتراضي)",
    before=_START + r"(?:(?:sorry|i apologi[sz]e|عذرا|آسف|أعتذر)[\s،,.]*(?:but |لكن |ولكن )?)?",
)
"""The model speaks of itself, in its first words."""

TALK_COUNTERPART = _compiled(r"\bAI\b|artificial|language model|assistant|ذكاء|اصطناعي|نموذج|مساعد")

REFUSAL = _compiled(
    r"(?:i['’]m|i am)? ?sorry,? (?:but )?(?:i|this|that|as)\b",
    r"(?:unfortunately|regrettably),? i (?:can|am|do|don)",
    r"i apologi[sz]e,? (?:but|for|i)\b",
    r"i(?: am|['’]m)? (?:can['’]?t|can ?not|unable to|not able to) (?:\w+ )?"
    r"(?:help|assist|provide|fulfil\w*|translate|answer|comply|do|generate|create|complete|process)",
    r"(?:عذرا|آسف|أنا آسف|أعتذر|نعتذر|للأسف|مع الأسف)\s?[،,.]? ?(?:و?لكني? |و?لكنني )?"
    r"(?:لا|لم|لن|ليس) (?:أستطيع|يمكن\w*|أتمكن|أقدر|لدي|أفهم)",
    r"لا (?:أستطيع|يمكنني) (?:ال)?(?:مساعدت?\w*|تقديم|ترجمة|إجابة|تلبية|إنشاء|توفير|كتابة|معالجة)",
    before=_START,
)
"""The model declines, in its first words."""

REFUSAL_COUNTERPART = _compiled(
    r"\b(?:can|could)(?:n?['’]?t| ?not)|\bun(?:able|fortunat|avail)|not able|impossible",
    r"\bsorry|apolog|excuse|pardon|regret|afraid|\bforgive",
    r"آسف|اسف|عذر|عتذر|أسف|سامح|عفو|لا (?:أ?[سي]تطيع|يمكن|أقدر)|(?:لم|لن) (?:أستط|يمكن|أتمكن)",
    "غير قادر|عاجز|أعجز|مستحيل|تعذر|ليس بإمكان|ليس بوسع",
)

YES = _compiled(r"(?:yes|yeah|نعم|أجل)\s*[،,.!:]", before=_START)
YES_COUNTERPART = _compiled(
    r"\b(?:yes|yeah|yep|yup|yea|aye|indeed|sure|right|correct|ok|okay|course|true|uh)\b",
    r"certainly|نعم|أجل|بلى|أيوه|ايوه|أيوا|إي |صحيح|بالتأكيد|طبعا|بالطبع|حسنا|آه",
)

NO = _compiled(r"(?:no|nope|لا|كلا)\s*[،,.!:]", before=_START)
NO_COUNTERPART = _compiled(
    r"\b(?:no|nope|nah|not|never|none|nothing|without)\b|n['’]t\b",
    r"\b(?:لا|كلا|ليس|ليست|لم|لن|أبدا|ما|غير|ألا|ألم|ألن|أليس|لست)\b",
)

# Bounded, so that a search in punctuation alone stays linear.
_CLAUSE = r"(?:\A|[.!?؟،,:;؛\n])[\W_]{0,8}+"
_ASKS_AR = (
    # Question words, with what may be written onto them
    r"\b[وفبلأ]?(?:هل|هلا|ماذا|لماذا|متى|أين|كيف|ليش|ليه|أليس|أليست|بماذا|لمن|بكم)\b",
    r"\b(?:في|من|إلى|على|عن|ب|ل)\s?(?:أي|أية|ماذا|من|كم|أين)\b",
    # Words that also mean other things: only where a clause starts
    _CLAUSE + r"(?:من|ما|لم|كم|أي|أية|أيهما|عم|مم|بم|مما|عما|ممن|فيم|مين|شو|وين)\b",
    _CLAUSE + r"و?(?:ألا|ألم|ألن|أما|أف|أو|أأنت|أنت|أيمكن|أتعرف|أتريد|ممكن)\b",
    # Requests, which questions are sometimes put as
    _CLAUSE + r"[وف]?(?:اذكر|أذكر|أعط|أخبر|قل|حدد|عدد)\w*\b",
)
_ASKS_EN = (
    r"\b(?:what|why|how|whose|whom)\b",
    r"\b(?:in|of|at|to|by|for|on|from|with|during|under) (?:which|who)\b",
    _CLAUSE + r"(?:(?:and|but|so|or|then|please) )?(?:who|which|when|where|is|are|am|was|were|do"
    r"|does|did|can|could|will|would|shall|should|may|might|must|has|have|had|\w+n['’]t|tell|name"
    r"|give|list|let)\b",
)
ASKS = _compiled(*_ASKS_AR, *_ASKS_EN)
"""The text asks something, be it without a question mark."""
