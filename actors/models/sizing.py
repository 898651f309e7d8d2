"""How much an engine takes: the longest text of a model, and the memory of its key-value cache.

Importing this module imports no torch.
"""

from __future__ import annotations

from typing import Any

LONGEST = 8192
"""The most tokens of a prompt and its reply where neither the config nor the model says less."""
MEMORY_SHARE = 0.25
"""Part of a machine's free memory that the cache of one engine may take where the config does not say how much."""
GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def context(shape: Any, given: int | None) -> int:
    """The most tokens that a prompt and its reply may have together.

    Args:
        shape: The model's `transformers` config.
        given: What the settings say, if anything.
    """
    if given is not None:
        return given
    takes = getattr(shape.get_text_config(), "max_position_embeddings", None) or LONGEST
    return min(LONGEST, int(takes))


def token_bytes(shape: Any, dtype: str) -> int:
    """Bytes that a token takes in a model's key-value cache: two vectors for each layer and head of keys."""
    text = shape.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * _BYTES[dtype]


def cache_gib(shape: Any, dtype: str, tokens: int, free_bytes: int) -> int:
    """GiB of cache for so many tokens, as vLLM takes them on a CPU: whole, at least one, and not more than a share of
    the free memory.

    Example:
        >>> from transformers import LlamaConfig
        >>> smollm2 = LlamaConfig(num_hidden_layers=30, num_key_value_heads=3, hidden_size=576, num_attention_heads=9)
        >>> token_bytes(smollm2, "float32"), cache_gib(smollm2, "float32", 48 * 1000, 20 * GIB)
        (46080, 3)
    """
    wanted = -(-tokens * token_bytes(shape, dtype) // GIB)
    return max(1, min(wanted, int(free_bytes * MEMORY_SHARE // GIB)))
