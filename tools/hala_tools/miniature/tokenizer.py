"""The vocabulary: sentencepiece unigram, saved as a Hugging Face tokenizer with a chat template.

sentencepiece learns the pieces; the saved tokenizer spells spaces as spaces (no U+2581 and no
dummy prefix), so decoding gives back any text exactly. `<` is always split off, or the text
`<0x41>` would be taken for the byte piece of that name.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 4096
SPECIAL = (
    "<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unknown|>", "<|reserved_4|>",
    "<|reserved_5|>", "<|im_start|>", "<|im_end|>",
)  # fmt: skip
UNKNOWN_ID = 3
BYTE_SCORE = -30.0
# Pieces of every prompt: whole, whatever the sample's counts say.
WHOLE = (
    "\n",
    "user",
    "assistant",
    "system",
    "Translate",
    " from",
    " to",
    " English",
    " Arabic",
    ":",
)
SAMPLE = 60_000

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def sample_lines(pairs: Sequence[tuple[str, str]], seed: int) -> list[str]:
    """Training lines: half of them after a space, as text stands in a prompt."""
    rng = random.Random(seed + 2)
    lines = []
    for pair in pairs:
        for text in pair:
            lines.append(" " + text if rng.random() < 0.5 else text)
    return lines


def learn_pieces(lines: Sequence[str], size: int) -> list[tuple[str, float]]:
    """(piece, log probability) by sentencepiece, without its control and byte pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=size + 256 + 3,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,  # several threads sum in varying order
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [
        (processor.id_to_piece(i).replace("\u2581", " "), processor.get_score(i))
        for i in range(processor.get_piece_size())
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    ]


def build_tokenizer(lines: Sequence[str]) -> Tokenizer:
    room = VOCAB_SIZE - len(SPECIAL) - 256
    learned = dict(learn_pieces(lines, room - len(WHOLE)))
    frequent = sorted(learned.values(), reverse=True)[len(learned) // 20]
    for piece in WHOLE:
        learned[piece] = max(learned.get(piece, frequent), frequent)
    pieces = sorted(learned.items(), key=lambda item: (-item[1], item[0]))[:room]
    byte_pieces = [(f"<0x{value:02X}>", BYTE_SCORE) for value in range(256)]
    vocab = [(token, 0.0) for token in SPECIAL] + byte_pieces + pieces
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=UNKNOWN_ID, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("<"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "unk_token": "<|unknown|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
