"""The chat template for a base model that has none.

    User: What is asthma?
    Assistant: A chronic disease of the airways.</s>

Every message is a line that opens with its role; an assistant turn ends with the tokenizer's own
end-of-sequence token and a line break. Nothing is needed but that token. A beginning-of-sequence
token is written where the tokenizer itself adds one. The space after `Assistant:` belongs to the
answer, so that its first word is the token the base has seen after a colon, and the prompt ends on
a token of its own. Tools have no plain form and are refused.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from lorakit.errors import DataError

_BOS = "{{- bos_token -}}\n"

_MESSAGES = """\
{%- if tools -%}
  {{- raise_exception('the plain template has no form for tools') -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message['role'] in ('system', 'developer') -%}
    {{- 'System: ' + message['content'] + '\\n' -}}
  {%- elif message['role'] == 'user' -%}
    {{- 'User: ' + message['content'] + '\\n' -}}
  {%- elif message['role'] == 'assistant' and not message.get('tool_calls') -%}
    {{- 'Assistant: ' + message['content'] + eos_token + '\\n' -}}
  {%- else -%}
    {{- raise_exception('the plain template has no form for tools') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'Assistant:' -}}
{%- endif -%}
"""


def plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The plain chat template for `tokenizer`, a Jinja source to be saved with the model.

    Raises:
        DataError: the tokenizer has no end-of-sequence token, so nothing could end a turn.
    """
    if tokenizer.eos_token is None:
        raise DataError(
            "the tokenizer has neither a chat template nor an end-of-sequence token, so no turn "
            "could end; set eos_token in tokenizer_config.json, or give a chat_template file"
        )
    adds_bos = tokenizer.bos_token is not None and tokenizer("a").input_ids[:1] == [
        tokenizer.bos_token_id
    ]
    return (_BOS if adds_bos else "") + _MESSAGES
