"""Chat templates in the shapes that model families have, written for these tests."""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Every turn in markers; nothing at the beginning, texts as they are."""

SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nBe of use.<|im_end|>\n{% endif %}" + CHATML
)
"""As CHATML, with a system turn of the template's own."""

HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start|>' + m.role + '<|end|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
"""A header before every turn; texts are trimmed; the beginning is written once."""

ROLES_RENAMED = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<turn>' + role + '\n' + m.content | trim + '</turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
"""The assistant has another name, and turns must alternate."""

IN_BRACKETS = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
"""No marker is a token, a system's text is merged into the first turn, and the answer
comes after a space that isn't part of the prompt."""

THINKING = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""An empty thought before an answer, and what is thought is taken out of one."""

SHAPES = {
    "chatml": CHATML,
    "system first": SYSTEM_FIRST,
    "headers": HEADERS,
    "roles renamed": ROLES_RENAMED,
    "in brackets": IN_BRACKETS,
    "thinking": THINKING,
}

MARKERS = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>")
PLAIN_MARKERS = ("<turn>", "</turn>")
"""Added tokens too, but not special ones."""


def with_template(tokenizer, template, *, markers=True):
    """`tokenizer` with this chat template, and with the markers as tokens."""
    if markers:
        tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
        tokenizer.add_tokens(list(PLAIN_MARKERS))
    tokenizer.chat_template = template
    return tokenizer
