"""How the model's context is shared between prompt, source text and translation."""

from dataclasses import dataclass

from hala_engine.errors import InputError

# A short text can need many more tokens than it has itself.
_OUTPUT_FLOOR = 32
_OUTPUT_PER_SOURCE = 2
_LEAST_SOURCE = 4


@dataclass(frozen=True)
class Budget:
    """Token limits of one job. `overhead`: tokens of a prompt that are not its text."""

    context: int
    overhead: int
    segment: int
    max_new_tokens: int | None

    @classmethod
    def of(
        cls, context: int, overhead: int, max_new_tokens: int | None, max_segment: int | None
    ) -> "Budget":
        """By default a segment takes at most a third of the context that the prompt leaves."""
        room = context - overhead
        largest = room - (max_new_tokens or 1)
        if largest < _LEAST_SOURCE:
            raise InputError(
                f"the prompt takes {overhead} and the output {max_new_tokens or 1} of the model's "
                f"{context} tokens of context, which leaves none for text; shorten --prompt or "
                "--max-new-tokens"
            )
        if max_segment is not None and max_segment > largest:
            raise InputError(
                f"--max-segment-tokens {max_segment}: at most {largest} fit into this model's "
                f"{context} tokens of context beside prompt and output"
            )
        segment = max_segment or max(_LEAST_SOURCE, min(room // 3, largest))
        return cls(context, overhead, segment, max_new_tokens)

    def new_tokens(self, prompt_tokens: int) -> int:
        """The most tokens that the translation of this prompt may take; at least 1."""
        room = self.context - prompt_tokens
        wanted = self.max_new_tokens or (
            _OUTPUT_PER_SOURCE * (prompt_tokens - self.overhead) + _OUTPUT_FLOOR
        )
        return max(1, min(wanted, room))
