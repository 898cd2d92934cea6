"""Text that has a form in UTF-8."""

import json
import re
from typing import Any

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """U+FFFD for halves of surrogate pairs: broken JSON escapes make them, UTF-8 has none."""
    return _HALF_CHARACTER.sub("\ufffd", text)


def whole_characters_within(value: Any) -> Any:
    """The same for every string in a JSON value."""
    return json.loads(whole_characters(json.dumps(value, ensure_ascii=False)))
