"""The miniature English-Arabic corpus: lexicon, grammar, split, tokenizer, scores."""
