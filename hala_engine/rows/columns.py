"""Whether a table's column can hold what a job reads in it, told by its type before work begins."""

import pyarrow as pa
import pyarrow.types as is_

# The names of a message's sender and text.
_MESSAGES = (("role", "content"), ("from", "value"))


def text_fault(kind: pa.DataType) -> str | None:
    """Why the type is not text; None if it is."""
    return None if _is_text(kind) else f"is {kind}, not text"


def chat_fault(kind: pa.DataType) -> str | None:
    """Why the type is not a list of messages; None if it is."""
    if is_.is_null(kind):
        return None
    if is_.is_struct(kind) and any(is_list(field.type) for field in kind):
        return (
            "is one struct of lists, as old versions of `datasets` kept a list of messages; "
            "store it as a list of {role, content}"
        )
    if is_list(kind) and is_.is_null(kind.value_type):
        return None
    if is_list(kind) and any(_is_message(kind.value_type, *names) for names in _MESSAGES):
        return None
    return f"is {kind}, not a list of messages {{role, content}} or {{from, value}}"


def _is_message(kind: pa.DataType, sender: str, content: str) -> bool:
    if not is_.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    if sender not in fields or content not in fields:
        return False
    # Content may be a list of parts of which some are text.
    return _is_text(fields[sender]) and (_is_text(fields[content]) or is_list(fields[content]))


def _is_text(kind: pa.DataType) -> bool:
    """Columns without any value count, too."""
    if is_.is_dictionary(kind):
        kind = kind.value_type
    return (
        is_.is_string(kind)
        or is_.is_large_string(kind)
        or is_.is_string_view(kind)
        or is_.is_null(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Of any of Arrow's kinds of lists."""
    return (
        is_.is_list(kind)
        or is_.is_large_list(kind)
        or is_.is_fixed_size_list(kind)
        or is_.is_list_view(kind)
        or is_.is_large_list_view(kind)
    )
