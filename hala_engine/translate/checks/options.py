"""The thresholds of the checks."""

from dataclasses import dataclass

from hala_engine.errors import InputError


@dataclass(frozen=True)
class CheckOptions:
    """When a translation is flagged. Ratios are of characters, translation over source."""

    min_length_ratio: float | None = None
    """None: by the source's length and the languages. The same holds for the next."""
    max_length_ratio: float | None = None
    min_script_share: float = 0.5
    """Least part of the letters that are of the target language's script."""
    max_loop_words: int = 8
    """From so many words on, a phrase said over and over is a loop (three sayings at least)."""
    min_compression: float = 0.22
    """Least ratio of zlib-compressed to plain bytes; lower is repetitive."""
    max_copied_words: int = 8
    """So many words of the source in a row, in its own script, are untranslated."""

    def validate(self) -> None:
        """Raise InputError for the first threshold that cannot be."""
        low, high = self.min_length_ratio, self.max_length_ratio
        if low is not None and not low >= 0:
            raise InputError(f"--min-length-ratio {low:g}: must be 0 or more")
        if high is not None and not high > 0:
            raise InputError(f"--max-length-ratio {high:g}: must be above 0")
        if low is not None and high is not None and low > high:
            raise InputError(
                f"--min-length-ratio {low:g} is above --max-length-ratio {high:g}: swap them"
            )
        for flag, share in (
            ("--min-script-share", self.min_script_share),
            ("--min-compression", self.min_compression),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"{flag} {share:g}: give a share from 0 to 1")
        for flag, words in (
            ("--max-loop-words", self.max_loop_words),
            ("--max-copied-words", self.max_copied_words),
        ):
            if words < 2:
                raise InputError(f"{flag} {words}: must be 2 or more")
