"""Tokenizers as families of models have them: their chat templates, marks, and how they split numbers.

Templates are the published ones where the `trl` package carries them, and rebuilt here elsewhere. The words that a
tokenizer knows are those of `tests.tiny_models`; what is tried is everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny_models

SINGLE, TRIPLE, WHOLE = "qwen", "llama3", "gpt2"
"""Kinds of `tests.tiny_models` by how they split numbers: digit by digit, up to three digits, whole."""

LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ first if loop.first else '' }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA4 = (
    "{{ bos_token }}{% for m in messages %}<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
OLMO = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help people, and are called SmolLM<|im_end|>\n"
    "{% endif %}" + tiny_models.CHATML
)


@dataclass(frozen=True)
class Family:
    """A family of models, and what its template is expected to do.

    Attributes:
        template: The name of TRL's file, or the template itself where it is rebuilt.
        digits: How its tokenizer splits numbers.
        marks: Special tokens; the first begins a text, and the last is the tokenizer's end token.
        words: Tokens that are no special ones.
        end: The token that ends the assistant's turn.
        system: Where a system message goes.
        merges, opens_thought, dated, thinks: See `actors.models.template.TemplateFacts`.
        own_system: How the system message begins that it writes by itself.
        steps: See `rating_steps`; 0 where they follow from the digits.
    """

    template: str
    digits: str
    marks: tuple[str, ...]
    end: str
    words: tuple[str, ...] = ()
    system: str = "own"
    merges: bool = False
    opens_thought: bool = False
    dated: bool = False
    thinks: bool = False
    own_system: str = ""
    steps: int = 0

    @property
    def rating_steps(self) -> int:
        """Steps that tell the ratings apart: a digit each, and one more where a space may come first."""
        return self.steps or (2 if self.digits == SINGLE else 1)

    @property
    def rebuilt(self) -> bool:
        return "{" in self.template

    def text(self) -> str:
        if self.rebuilt:
            return self.template
        import trl

        return (Path(trl.__file__).parent / "chat_templates" / f"{self.template}.jinja").read_text(encoding="utf-8")

    def tokenizer(self) -> Any:
        from transformers import AddedToken

        made = tiny_models.tokenizer(self.digits)
        made.chat_template = self.text()
        made.add_special_tokens({"additional_special_tokens": list(self.marks)})
        made.add_tokens([AddedToken(word, special=False) for word in self.words])
        made.bos_token, made.eos_token = self.marks[0], self.marks[-1]
        return made


_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLAMA4 = ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>")
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_GEMMA = ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>")
_MISTRAL = ("<s>", "[INST]", "[/INST]", "</s>")
_PHI = ("<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")  # noqa: RUF001
_HARMONY = ("<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>")
FAMILIES = {
    "Llama 2": Family(LLAMA2, SINGLE, ("<s>", "</s>"), "</s>", merges=True, steps=3),
    "Llama 3": Family("llama3", TRIPLE, _LLAMA3, "<|eot_id|>"),
    "Llama 3.1": Family("llama3_1", TRIPLE, _LLAMA3, "<|eot_id|>", own_system="Cutting Knowledge Date"),
    "Llama 3.2": Family("llama3_2", TRIPLE, _LLAMA3, "<|eot_id|>", dated=True, own_system="Cutting Knowledge Date"),
    "Llama 4": Family(
        LLAMA4, TRIPLE, ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"), "<|eot|>"
    ),
    "Qwen2.5": Family("qwen2_5", SINGLE, _QWEN, "<|im_end|>", own_system="You are Qwen"),
    "Qwen3": Family("qwen3", SINGLE, _QWEN, "<|im_end|>", words=_THINK, thinks=True),
    "Qwen3 Instruct 2507": Family("qwen3_instruct_2507", SINGLE, _QWEN, "<|im_end|>"),
    "Gemma 1 and 2": Family("gemma", SINGLE, _GEMMA, "<end_of_turn>", system="folded", merges=True),
    "Gemma 3": Family("gemma3", SINGLE, _GEMMA, "<end_of_turn>", merges=True),
    "Mistral": Family(
        MISTRAL, SINGLE, ("<s>", "[INST]", "[/INST]", "</s>"), "</s>", system="folded", merges=True, steps=3
    ),
    "Phi 3": Family("phi3", SINGLE, _PHI, "<|end|>"),
    "Phi 3.5": Family("phi3_5", SINGLE, _PHI, "<|end|>"),
    "OLMo 2": Family(OLMO, TRIPLE, ("<|startoftext|>", "<|endoftext|>"), "<|endoftext|>"),
    "SmolLM2": Family(SMOLLM2, SINGLE, _QWEN, "<|im_end|>", own_system="You help people"),
    "DeepSeek-R1 distils": Family(
        "deepseek_r1_distill", TRIPLE, _DEEPSEEK, _DEEPSEEK[-1], words=_THINK, opens_thought=True, thinks=True
    ),
    "gpt-oss": Family(
        "gptoss", TRIPLE, _HARMONY, "<|return|>", dated=True, thinks=True, own_system="You are ChatGPT", steps=2
    ),
}
