"""Small random models, and tokenizers that split numbers the way real ones do, built here in a second."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role.capitalize() }}: {{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
)
KINDS: dict[str, tuple[str, str, list[str]]] = {
    "smollm": ("digits", CHATML, ["<|im_start|>", "<|im_end|>"]),
    "qwen": (r"\p{N}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+", CHATML, ["<|im_start|>", "<|im_end|>"]),
    "llama3": (
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+",
        HEADERS,
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    ),
    "gpt2": (r" ?\p{N}+| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+", PLAIN, ["<|end|>"]),
    "inst": (r"\p{N}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+", INST, ["[INST]", "[/INST]", "<|end|>"]),
}
"""By name: how text is split before tokens are made of it, the chat template, and the tokens that are marks."""
TEXT = [
    "How satisfied are you, from 1 to 10? Answer with the number only. 1 2 3 4 5 6 7 8 9 10 11 12 100 7 8 10 10 10 10",
    "user system assistant User: Assistant: yes no Yes No unclear pleased disappointed pleased disappointed yes no",
    "Pleased or disappointed? 10\n10 9\n8 10 7 10 6 5 10 4 3 2 1 10",
]


def tokenizer(kind: str) -> Any:
    """A byte-level BPE tokenizer of one of `KINDS`, with its chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    split, template, marks = KINDS[kind]
    made = Tokenizer(models.BPE())
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if split == "digits"
        else pre_tokenizers.Split(Regex(split), "isolated")
    )
    with_prefix = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "digits")
    made.pre_tokenizer = pre_tokenizers.Sequence([first, with_prefix])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|pad|>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template=template, eos_token=marks[-1], pad_token="<|pad|>"
    )


def model(vocabulary: int, seed: int = 0) -> Any:
    """A Llama of random weights whose next tokens are far from equally probable."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,  # vLLM has no kernels for heads of fewer than 64 on some CPUs
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config).eval()
    made.lm_head.weight.data.mul_(12)
    return made


def temporary(kind: str = "smollm") -> str:
    """The folder of a model, which goes away with the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write(Path(folder.name), kind)


def write(folder: Path, kind: str, seed: int = 0) -> str:
    """A model and its tokenizer as a Hugging Face directory; returns the folder."""
    made = tokenizer(kind)
    model(len(made), seed).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)
