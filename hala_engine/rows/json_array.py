"""The elements of a JSON array in a file, one by one, in constant memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hala_engine.errors import InputError
from hala_engine.rows.lines import BOM, not_utf8, open_at

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
# A text that stops short is refused at its end, or at the start of the string it stops in.
_CUT_OFF = "Unterminated string"
_NEAR_END = 16


def read_array(path: Path, start: int = 0) -> Iterator[tuple[int, object, int]]:
    """(element number counted from `start`, the element, the byte offset after it)."""
    with open_at(path, start) as file:
        window = _Window(file, path, start)
        if not start:
            window.skip(BOM + _SPACE)
            window.take("[")
        number = 0
        while True:
            window.skip(_SPACE)
            if window.take("]"):
                window.skip(_SPACE)
                if not window.at_end:
                    raise InputError(f"{path}: more text after the array's end; delete it")
                return
            if (number or start) and not window.take(","):
                raise InputError(f"{path}: no comma after element {number} of the array; add it")
            window.skip(_SPACE)
            number += 1
            yield number, window.decode(number), window.offset


class _Window:
    """The part of the file that is in memory, and the place in it where decoding stands."""

    def __init__(self, file: BinaryIO, path: Path, start: int):
        self._file, self._path = file, path
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._rest = b""  # the first bytes of a character that is not complete
        self._read_to = start
        self.offset = start

    @property
    def at_end(self) -> bool:
        return self._at == len(self._text) and not self._grow(_CHUNK)

    def skip(self, characters: str) -> None:
        """Pass over a run of these characters."""
        while not self.at_end and self._text[self._at] in characters:
            self._advance(self._at + 1)

    def take(self, character: str) -> bool:
        """Pass over this character if it is next."""
        if self.at_end or self._text[self._at] != character:
            return False
        self._advance(self._at + 1)
        return True

    def decode(self, number: int) -> object:
        """The JSON value that begins here."""
        while True:
            try:
                value, after = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith(_CUT_OFF) or error.pos > len(self._text) - _NEAR_END
                # Grow by as much as there is, lest a long element be tried over and over.
                if not (cut_off and self._grow(max(_CHUNK, len(self._text)))):
                    raise self._broken(number, error.msg) from None
            except RecursionError:
                raise self._broken(number, "nested too deeply") from None
            except ValueError as error:
                raise self._broken(number, str(error)) from None
            else:
                self._advance(after)
                return value

    def _broken(self, number: int, reason: str) -> InputError:
        return InputError(
            f"{self._path}: broken JSON in element {number} of the array, which begins at byte "
            f"{self.offset} ({reason}); mend or delete it"
        )

    def _advance(self, to: int) -> None:
        self.offset += len(self._text[self._at : to].encode("utf-8"))
        self._at = to

    def _grow(self, count: int) -> bool:
        """Read on, forgetting what has been decoded; False at the file's end."""
        new = self._file.read(count)
        raw = self._rest + new
        try:
            text, used = raw.decode("utf-8"), len(raw)
        except UnicodeDecodeError as error:
            if not new or len(raw) - error.start >= 4:
                raise not_utf8(str(self._path), self._read_to + error.start) from None
            text, used = raw[: error.start].decode("utf-8"), error.start
        self._rest = raw[used:]
        self._read_to += used
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(new)
