"""Keywords of tiny configurations, by kind of model."""

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN = {
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "gemma2": {"head_dim": 16, "sliding_window": 4},
    "cohere2": {"sliding_window": 4},
    "qwen2": {"tie_word_embeddings": False},
}
