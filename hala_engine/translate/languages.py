"""Language codes: their English names for prompts, and their scripts for checks."""

import re
from functools import cache

from hala_engine.errors import InputError

_CODE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")

# code -> (name in a prompt, script or None when more than one is usual)
_LANGUAGES: dict[str, tuple[str, str | None]] = {
    "ar": ("Arabic", "arabic"),
    "bg": ("Bulgarian", "cyrillic"),
    "bn": ("Bengali", "bengali"),
    "cs": ("Czech", "latin"),
    "da": ("Danish", "latin"),
    "de": ("German", "latin"),
    "el": ("Greek", "greek"),
    "en": ("English", "latin"),
    "es": ("Spanish", "latin"),
    "et": ("Estonian", "latin"),
    "fa": ("Persian", "arabic"),
    "fi": ("Finnish", "latin"),
    "fr": ("French", "latin"),
    "he": ("Hebrew", "hebrew"),
    "hi": ("Hindi", "devanagari"),
    "hr": ("Croatian", "latin"),
    "hu": ("Hungarian", "latin"),
    "id": ("Indonesian", "latin"),
    "it": ("Italian", "latin"),
    "ja": ("Japanese", "japanese"),
    "ko": ("Korean", "hangul"),
    "ku": ("Kurdish", None),
    "lt": ("Lithuanian", "latin"),
    "lv": ("Latvian", "latin"),
    "ms": ("Malay", "latin"),
    "nl": ("Dutch", "latin"),
    "no": ("Norwegian", "latin"),
    "pl": ("Polish", "latin"),
    "ps": ("Pashto", "arabic"),
    "pt": ("Portuguese", "latin"),
    "ro": ("Romanian", "latin"),
    "ru": ("Russian", "cyrillic"),
    "sk": ("Slovak", "latin"),
    "sl": ("Slovenian", "latin"),
    "sr": ("Serbian", None),
    "sv": ("Swedish", "latin"),
    "sw": ("Swahili", "latin"),
    "th": ("Thai", "thai"),
    "tr": ("Turkish", "latin"),
    "uk": ("Ukrainian", "cyrillic"),
    "ur": ("Urdu", "arabic"),
    "vi": ("Vietnamese", "latin"),
    "zh": ("Chinese", "han"),
}

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d"

# The letters of a script, as the inside of a regular expression's []. Those of scripts that no
# language above is written in are there to be noticed where they do not belong.
SCRIPT_LETTERS: dict[str, str] = {
    # With Arabic Presentation Forms, which occur in real data; without tatweel, which is drawn
    # between letters and is none.
    "arabic": "\u0620-\u063f\u0641-\u064a\u066e-\u06d3\u06d5\u06ee\u06ef\u06fa-\u06ff"
    "\u0750-\u077f\u08a0-\u08c9\ufb50-\ufdff\ufe70-\ufefc",
    "armenian": "\u0531-\u0588",
    "bengali": "\u0980-\u09ff",
    "burmese": "\u1000-\u109f",
    "cyrillic": "\u0400-\u052f",
    "devanagari": "\u0900-\u097f",
    "ethiopic": "\u1200-\u139f",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "gujarati": "\u0a80-\u0aff",
    "gurmukhi": "\u0a00-\u0a7f",
    "hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af",
    "han": _HAN,
    "hebrew": "\u05d0-\u05f4\ufb1d-\ufb4f",
    "japanese": f"{_KANA}{_HAN}",
    "kannada": "\u0c80-\u0cff",
    "khmer": "\u1780-\u17ff",
    "lao": "\u0e80-\u0eff",
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "malayalam": "\u0d00-\u0d7f",
    "mongolian": "\u1800-\u18af",
    "sinhala": "\u0d80-\u0dff",
    "tamil": "\u0b80-\u0bff",
    "telugu": "\u0c00-\u0c7f",
    "thai": "\u0e00-\u0e7f",
    "tibetan": "\u0f00-\u0fff",
}


def _base(code: str) -> str:
    return re.split(r"[-_]", code)[0]


def check_code(code: str, flag: str) -> None:
    """Refuse what cannot be a language code, since it becomes part of a column's name."""
    if not _CODE.fullmatch(code):
        raise InputError(f"{flag} {code!r} is no language code; use one such as en or ar")


def language_name(code: str) -> str | None:
    """'Arabic' for 'ar' and 'ar-EG'; None for a language that has no name here."""
    entry = _LANGUAGES.get(_base(code))
    return entry[0] if entry else None


@cache
def language_script(code: str) -> str | None:
    """The script that text of this language is written in, None when unknown or not fixed."""
    entry = _LANGUAGES.get(_base(code))
    return entry[1] if entry else None
