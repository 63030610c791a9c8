"""Why the findings of the data contract matter: what their pages say besides their message."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """Of a finding that no rule makes.

    Attributes:
        severity: error, warning or note.
        title: what it is, in a few words.
        reason: why it matters.
        source: where that is from.
        mend: what to do.
        can_be_silenced: false where nothing is left to train on.
    """

    severity: str
    title: str
    reason: str
    source: str
    mend: str
    can_be_silenced: bool = True


_NO_CUT = "trl#3449, unsloth#2904, transformers#30998: silent truncation"
_APART = "Lee et al. (arXiv 2107.06499), section 5: train and test overlap"
_STOP = "trl#2059, trl#3091, trl#5988, LLaMA-Factory#7454: models that never stop"
_SPANS = "axolotl#2089, unsloth#2771, #3041: wrong spans of a template"
_THINKING = "trl#6361, ms-swift#4939, LLaMA-Factory#10773"

PAGES: dict[str, Page] = {
    "data-refused": Page(
        "error",
        "Too little of the data can be used",
        "More than max_dropped of the rows would be left out (too long, refused by the template, "
        "nothing in them trained: all labels masked, or a template without a stop token), or a set "
        "has no row left. Or rows cannot be used at all, such as one with an empty answer: these "
        "are never left out silently. What would be trained is not what was meant.",
        "unsloth#2900, #1128, trl#6025: all labels masked, loss 0 and nothing said",
        "The message says which rows and why, and what would keep enough of them.",
        can_be_silenced=False,
    ),
    "rows-too-long": Page(
        "warning",
        "Rows over max_length are left out",
        "A row that is too long is left out whole and never cut: a cut answer teaches to stop in "
        "mid-sentence.",
        _NO_CUT,
        "Raise data.max_length (up to the base's context), split the rows, or choose another base.",
    ),
    "no-trained-token": Page(
        "warning",
        "Rows of which nothing is trained",
        "A row whose labels are all masked costs time and teaches nothing.",
        "unsloth#2900, #1128, #2364, trl#6025",
        "Check data.trained and the weights of the messages; the last turn must be the "
        "assistant's.",
    ),
    "template-refused": Page(
        "warning",
        "Rows that the chat template refuses",
        "Templates raise errors of their own (two user turns in a row, an unknown role), or "
        "write no "
        "stop token after the assistant's turn, so that the model would never learn to stop.",
        _STOP,
        "Fix the rows, or give a data.chat_template that takes them.",
    ),
    "prefix-mismatch": Page(
        "warning",
        "The prompt in training is not the prompt when served",
        "The text before a trained turn differs from what add_generation_prompt gives: the model "
        "is "
        "trained on another prompt than it will see.",
        _SPANS,
        "Give a data.chat_template whose generation prompt is what it writes before answers.",
    ),
    "content-dropped": Page(
        "warning",
        "The template leaves out text",
        "What the template drops the model never sees, and nobody notices.",
        _THINKING,
        "Use a data.chat_template that writes it, or move the text to where the template reads it.",
    ),
    "tools-dropped": Page(
        "warning",
        "The template leaves out tools",
        "Calls are then trained without the tools that they call: the model learns to invent some.",
        _SPANS,
        "Use a template that writes tools, or put them into the system message.",
    ),
    "thinking-dropped": Page(
        "warning",
        "The template leaves out thinking",
        "Most templates keep the thinking of the last turn only; that of earlier turns is not "
        "trained.",
        _THINKING,
        "Make rows of their own of those turns.",
    ),
    "thinking-doubled": Page(
        "warning",
        "Thinking tags come twice",
        "The content has <think> tags and the template adds its own: the model learns two.",
        _THINKING,
        "Move the thinking to reasoning_content.",
    ),
    "whitespace-trimmed": Page(
        "note",
        "The template trims white space",
        "Leading or trailing white space of a message is not trained; it seldom matters.",
        "practice",
        "Nothing, unless white space means something (code, tables).",
    ),
    "stop-in-next-message": Page(
        "note",
        "A turn ends with the header of the next",
        "Some templates write nothing after an answer: the next header is the stop token, and "
        "whoever "
        "serves the model must stop at it.",
        _STOP,
        "lorakit writes it into the generation config; other tools must be told.",
    ),
    "stop-differs": Page(
        "warning",
        "Turns end with different tokens",
        "Earlier turns end otherwise than the last: what is trained of the last alone is one of "
        "them.",
        _STOP,
        "Set data.trained: assistant, so that both are learned.",
    ),
    "stop-added": Page(
        "note",
        "The markers leave out the stop token",
        "A template's {% generation %} markers end before the stop token; it is trained all the "
        "same.",
        _STOP,
        "Nothing; or move the marker behind the stop token.",
    ),
    "marker-starts-elsewhere": Page(
        "note",
        "The markers begin elsewhere than the prompt ends",
        "{% generation %} markers were followed, although the generation prompt ends somewhere "
        "else.",
        _SPANS,
        "Look at `lorakit check --show 3`; fix the template if that is not meant.",
    ),
    "system-folded": Page(
        "note",
        "System messages were put before the first user message",
        "The template refuses them; the model must be served in the same way.",
        "practice",
        "Serve with the text before the first user message.",
    ),
    "turn-not-marked": Page(
        "note",
        "The markers leave out assistant turns",
        "Turns outside of {% generation %} markers are not trained.",
        _SPANS,
        "Mark them, if they are to be trained.",
    ),
    "special-token-in-text": Page(
        "note",
        "Text spells a special token",
        "It was encoded as text, so that no row can end a turn from inside. Many such rows were "
        "rendered "
        "already: see control-tokens-in-text.",
        "practice",
        "Nothing, if the rows speak of such tokens.",
    ),
    "template-uses-date": Page(
        "note",
        "The template writes today's date",
        "The model is trained with the date of the first preparation and served with another.",
        "practice",
        "Nothing; or give a data.chat_template without the date.",
    ),
    "duplicate-rows": Page(
        "note",
        "Rows repeat word for word",
        "They were kept, and are learned that much more; from a twentieth of the rows on, and "
        "where they narrow the intervals of a set that measures, exact-duplicates warns.",
        "Lee et al. (arXiv 2107.06499)",
        "Remove them.",
    ),
    "groups-shared-with-train": Page(
        "warning",
        "Held-out rows of a group that is trained on",
        "Rows of one group (a patient, a topic) tell each other's answers: the figure flatters.",
        _APART,
        "Split by the group: data.validation as a fraction, with data.group.",
    ),
    "rows-shared-with-train": Page(
        "warning",
        "Held-out rows that are trained on",
        "They were left out of the held-out set: they would measure memory.",
        _APART,
        "Remove them from one of the two.",
    ),
    "rows-shared-with-validation": Page(
        "warning",
        "Measured rows that decide when to stop",
        "They were left out: a set that chose the weights flatters them.",
        _APART,
        "Name other rows.",
    ),
    "in-domain-decides-when-to-stop": Page(
        "warning",
        "in_domain is the set that decides when to stop",
        "The weights were chosen on it, so its figure flatters.",
        _APART,
        "Name a set of its own as evaluate.in_domain.",
    ),
    "too-few-to-tell": Page(
        "warning",
        "A set is too small for a verdict",
        "With so few examples the interval says nothing, and people will read `too few to tell`.",
        "lorakit/evaluate/statistics.py says from how many on intervals are honest",
        "Name more rows, or raise evaluate.max_examples or max_generated.",
    ),
    "tokens-not-stored": Page(
        "note",
        "The cache of tokens cannot be written",
        "Tokens are kept in memory, and made again at every start.",
        "practice",
        "Set LORAKIT_CACHE to a folder that can be written.",
    ),
    "prompts-not-varied": Page(
        "note",
        "Prompts that a rephrased variant leaves as they are",
        "A variant changes word order, spelling or synonyms; where nothing can be changed, the row "
        "stands in the set as before, and measures no rephrasing.",
        "practice",
        "Nothing, if they are few; else choose another variant.",
    ),
    "topics-held-out": Page(
        "note",
        "Topics are held out",
        "Rows of these topics are neither trained nor validated on, so that unseen topics are "
        "measured.",
        "practice",
        "Nothing; it says how data.hold_out_topics was understood.",
    ),
    "rows-of-held-out-topics": Page(
        "warning",
        "Rows of a held-out topic in another set",
        "They were left out: with them the topic would not be unseen.",
        _APART,
        "Remove them, or hold out other topics.",
    ),
}
