"""Chat messages -> token ids, with the assistant's tokens marked.

The template is rendered to text, never to tokens: for each assistant turn, the rendering of what
came before it *with* the generation prompt must be a string prefix of the rendering that includes
the turn, and what follows that prefix is the answer. Prompt and answer are then encoded apart, so
the boundary between them falls exactly between two tokens, and the prompt's tokens are the very
ones that an engine feeds when it is asked to continue the same conversation. (Encoding the whole
and mapping characters back to tokens would let a merge straddle the boundary.)

An answer ends with its end-of-turn token, which is learnt; what the template writes after it (a
line break, as a rule) belongs to the next prompt and is not.
"""

import hashlib

from hala_trainer.errors import InputError

END_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|eot_id|>")


class ChatRenderer:
    def __init__(self, tokenizer):
        if not tokenizer.chat_template:
            raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        known = tokenizer.get_vocab()
        ends = [t for t in (*END_OF_TURN, tokenizer.eos_token) if t and t in known]
        self.ends = [end for end in ends if end in tokenizer.chat_template] or ends

    def fingerprint(self) -> bytes:
        text = self.tokenizer.backend_tokenizer.to_str() + self.tokenizer.chat_template
        return hashlib.sha256(text.encode()).digest()

    def encode(self, rows: list[tuple[str, list[dict]]]) -> list[tuple[list[int], list[bool]]]:
        """Token ids and supervision marks of each row; all pieces go through the tokenizer once."""
        pieces: list[str] = []
        plan: list[list[bool]] = []
        for parts in self._split(rows):
            pieces += [text for text, _ in parts]
            plan.append([supervised for _, supervised in parts])
        encoded = iter(
            e.ids
            for e in self.tokenizer.backend_tokenizer.encode_batch_fast(
                pieces, add_special_tokens=False
            )
        )
        out = []
        for flags in plan:
            ids: list[int] = []
            marks: list[bool] = []
            for flag in flags:
                piece = next(encoded)
                ids += piece
                marks += [flag] * len(piece)
            out.append((ids, marks))
        return out

    def _split(self, rows: list[tuple[str, list[dict]]]) -> list[list[tuple[str, bool]]]:
        """Cut every row into (text, is it learnt) pieces."""
        cuts: list[tuple[int, list[dict], list[dict]]] = []  # row, before the turn, with the turn
        for r, (_, messages) in enumerate(rows):
            for i, message in enumerate(messages):
                if message["role"] == "assistant":
                    cuts.append((r, messages[:i], messages[: i + 1]))
        prompts = self._render([before for _, before, _ in cuts], generation_prompt=True)
        wholes = self._render([upto for _, _, upto in cuts], generation_prompt=False)
        parts: list[list[tuple[str, bool]]] = [[] for _ in rows]
        done = [0] * len(rows)  # characters of the row already cut
        for (r, _, _), prompt, whole in zip(cuts, prompts, wholes, strict=True):
            if not whole.startswith(prompt) or len(prompt) < done[r]:
                raise InputError(
                    f"{rows[r][0]}: the chat template does not render an assistant turn as its "
                    "generation prompt followed by the answer, so the answer cannot be told apart"
                )
            answer = whole[len(prompt) :]
            end = max((answer.rfind(e) + len(e) for e in self.ends if e in answer), default=0)
            answer = answer[: end or None]
            parts[r] += [(prompt[done[r] :], False), (answer, True)]
            done[r] = len(prompt) + len(answer)
        return parts

    def _render(self, conversations: list[list[dict]], generation_prompt: bool) -> list[str]:
        if not conversations:
            return []
        return self.tokenizer.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=generation_prompt
        )
