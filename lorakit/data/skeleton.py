"""Where a template puts each assistant turn: found once per shape of conversation, on masked text.

For turn i the template is asked three things on masked messages: the whole conversation R, the
generation prompt before the turn G = render(messages[:i], prompt), and the conversation up to the
turn P = render(messages[:i+1]).

- Start: the model produces everything after G, so the turn starts where G ends if R begins with G.
  Where it does not (thinking stripped from history, an empty `<think>` block that only the prompt
  opens), it starts where the text after the last word of the message before stops agreeing with G,
  and at the turn's own first word at the latest.
- End: the text after the turn's last word in R, as far as it agrees with the same text in P. The
  last control token in it is the stop token. A last turn is compared with the same conversation
  followed by a user message, so that what a template writes once at the end (phi-3) is not taken
  for it. Templates that write none (GLM) stop with the control token that opens the next message.
- Where the template has `{% generation %}` markers, they say what is trained, and the stop token is
  added if they leave it out.

Nothing is searched for in real text: positions in masked text are carried over piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorakit.data.masking import Masked, Masker
from lorakit.data.template import ChatTemplate
from lorakit.errors import DataError


@dataclass(frozen=True)
class Turn:
    """One assistant turn in masked text.

    Attributes:
        message: its index.
        spans: character ranges that are trained; the last one ends with the stop token.
        prompt: G, the masked generation prompt before the turn.
        prompt_agrees: R begins with G.
        stop: the stop token's text.
        notes: ids of findings.
        fault: why it cannot be trained, or "".
    """

    message: int
    spans: tuple[tuple[int, int], ...]
    prompt: str
    prompt_agrees: bool
    stop: str
    notes: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Skeleton:
    """The masked rendering of one shape of conversation.

    Attributes:
        text: R.
        num_control: control tokens in R.
        segments: R cut at the markers: literal texts at even places, piece numbers at odd ones.
        shown: pieces that occur in R.
        turns: the assistant turns that were asked for.
    """

    text: str
    num_control: int
    segments: tuple[str | int, ...]
    shown: frozenset[int]
    turns: tuple[Turn, ...]


def build_skeleton(
    template: ChatTemplate,
    masker: Masker,
    masked: Masked,
    turns: Sequence[int],
    control: re.Pattern[str],
) -> Skeleton:
    """Locate the assistant turns with message indices `turns` in the masked rendering.

    Raises:
        DataError: the template refuses the conversation.
    """
    marked: list[tuple[int, int]] = []
    if template.has_markers:
        text, marked = template.render_marked(masked.messages, masked.tools)
    else:
        text = template.render(masked.messages, masked.tools)
    parts = masker.pattern.split(text)
    segments = tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
    shown = frozenset(int(part) for part in parts[1::2])
    finder = _Finder(template, masker, masked, text, control)
    found = [finder.turn(index) for index in turns]
    if template.has_markers:
        found = _follow_markers(found, marked, finder)
    return Skeleton(text, len(finder.control), segments, shown, tuple(found))


class _Finder:
    """Finds turns in one masked rendering."""

    def __init__(
        self,
        template: ChatTemplate,
        masker: Masker,
        masked: Masked,
        text: str,
        control: re.Pattern[str],
    ) -> None:
        self.template, self.masker, self.masked, self.text = template, masker, masked, text
        self.owners = [piece.owner for piece in masked.pieces]
        self.words = [
            (match.start(), match.end(), self.owners[int(match.group(1))])
            for match in masker.pattern.finditer(text)
        ]
        self.control = [match.span() for match in control.finditer(text)]
        self.tags = self.control + [match.span() for match in masker.tags.finditer(text)]

    def turn(self, index: int) -> Turn:
        prompt = (
            self.template.render(self.masked.messages[:index], self.masked.tools, prompt=True)
            if index
            else self._bare_prompt()
        )
        agrees = self.text.startswith(prompt)
        try:
            start = len(prompt) if agrees else self._start(index, prompt)
            self._check_own(index, start)
            end, notes = self._end(index, start)
        except DataError as error:
            return Turn(index, (), prompt, agrees, "", fault=str(error))
        stop = next(self.text[a:b] for a, b in reversed(self.control) if b == end)
        notes = notes if agrees else (*notes, "prefix-mismatch")
        return Turn(index, ((start, end),), prompt, agrees, stop, notes)

    def words_of(self, index: int) -> list[tuple[int, int]]:
        return [(start, end) for start, end, owner in self.words if owner == index]

    def _bare_prompt(self) -> str:
        """The prompt before a first message: templates cannot render no messages at all."""
        first = self.words_of(0)
        if not first:
            raise DataError("the conversation opens with an assistant turn without text")
        return self.text[: first[0][0]]

    def _start(self, index: int, prompt: str) -> int:
        """The start of a turn where R does not begin with G."""
        own = self.words_of(index)
        before = list(self.masker.pattern.finditer(prompt))
        if not before:
            raise DataError("the text before the turn is not the generation prompt")
        last = before[-1]
        owner_words = [
            w for w in self.masker.pattern.finditer(self.text) if w.group() == last.group()
        ]
        anchors = [word.end() for word in owner_words if not own or word.end() <= own[0][0]]
        if not anchors:
            raise DataError("the message before the turn is not shown before it")
        header = prompt[last.end() :]
        between = self.text[anchors[-1] : own[0][0] if own else len(self.text)]
        agreed = _agreement(header, between)
        unprompted = self.template.render(self.masked.messages[:index], self.masked.tools)
        at = unprompted.rfind(last.group())
        closing = unprompted[at + len(last.group()) :] if at >= 0 else ""
        opening = header[_agreement(header, closing) :]  # what only the prompt has
        if opening.strip() and opening.strip() in between:  # all of it, but for white space
            bare = between.rindex(opening.strip()) + len(opening.strip())
            gap = opening[len(opening.rstrip()) :]
            agreed = bare + _agreement(gap, between[bare:])
        elif header and agreed <= _agreement(header, closing):
            raise DataError(
                "the text before the turn is not the generation prompt, "
                f"{header[-60:]!r} against {between[-60:]!r}"
            )
        start = anchors[-1] + agreed
        inside = [a for a, b in self.tags if a < start < b]
        return inside[0] if inside else start

    def _check_own(self, index: int, start: int) -> None:
        """No message's words may stand inside another's turn."""
        own = self.words_of(index)
        if not own:
            return
        if own[0][0] < start:
            raise DataError(
                "the template writes text of the turn before the generation prompt ends"
            )
        strangers = {o for a, _, o in self.words if own[0][0] < a < own[-1][0] and o != index}
        if strangers:
            raise DataError(
                f"the template writes message {min(strangers)} inside the assistant turn {index}; "
                "split that turn in two"
            )

    def _end(self, index: int, start: int) -> tuple[int, tuple[str, ...]]:
        """The end of the stop token of the turn that starts at `start`."""
        own = self.words_of(index)
        at = own[-1][1] if own else start
        limit = at + self._closing(index, at, bool(own))
        limit = next((a for a, b in self.control if a < limit < b), limit)
        stops = [b for a, b in self.control if a >= at and b <= limit]
        if stops and not self.text[stops[-1] : limit].strip():
            return stops[-1], ()
        following = [(a, b) for a, b in self.control if a >= limit]
        if following and not self.text[limit : following[0][0]].strip():
            whole = limit - at == len(self._alone(index, own))
            return following[0][1], ("stop-in-next-message" if whole else "stop-differs",)
        raise DataError(
            "the template writes no stop token after the assistant turn, so the model would never "
            "learn to stop; give a chat_template that ends the turn with one"
        )

    def _closing(self, index: int, at: int, has_words: bool) -> int:
        """How many characters after `at` belong to the turn's end."""
        rest = self.text[at:]
        if index + 1 < len(self.masked.messages):
            return _agreement(rest, self._alone(index, self.words_of(index)))
        try:
            longer = self.template.render(
                [*self.masked.messages, self._user_message()], self.masked.tools
            )
        except DataError:
            return len(rest)
        tail = self._tail(longer, index, has_words, self.text[:at])
        shared = _agreement(rest, tail)
        ends = [b for a, b in self.control if a >= at and b <= at + shared]
        return shared if ends else len(rest)

    def _alone(self, index: int, own: Sequence[tuple[int, int]]) -> str:
        """What follows the turn's last word when nothing comes after the turn."""
        alone = self.template.render(self.masked.messages[: index + 1], self.masked.tools)
        return self._tail(alone, index, bool(own), "")

    def _tail(self, text: str, index: int, has_words: bool, before: str) -> str:
        if has_words:
            ends = [
                match.end()
                for match in self.masker.pattern.finditer(text)
                if self.owners[int(match.group(1))] == index
            ]
            return text[ends[-1] :] if ends else ""
        prompt = before or self.template.render(
            self.masked.messages[:index], self.masked.tools, prompt=True
        )
        return text[len(prompt) :] if text.startswith(prompt) else ""

    def _user_message(self) -> dict[str, Any]:
        word = self.masker.nonce  # no number: it is nobody's piece
        content: Any = (
            [{"type": "text", "text": word}] if self.template.habits.text_as_parts else word
        )
        return {"role": "user", "content": content}


def _follow_markers(
    turns: Sequence[Turn], marked: Sequence[tuple[int, int]], finder: _Finder
) -> list[Turn]:
    """Replace each turn's span by the spans that the template marks, up to the stop token at
    least."""
    followed = []
    for i, turn in enumerate(turns):
        if turn.fault:
            followed.append(turn)
            continue
        lower = max((t.spans[-1][1] for t in turns[:i] if t.spans), default=0)
        upper = _next_words(turn, finder)
        spans = [(a, b) for a, b in marked if lower <= a < upper and turn.spans[0][0] < b and a < b]
        followed.append(_marked_turn(turn, spans))
    return followed


def _marked_turn(turn: Turn, spans: list[tuple[int, int]]) -> Turn:
    (start, end), notes = turn.spans[0], list(turn.notes)
    if not spans:
        return replace(turn, spans=(), notes=(*notes, "turn-not-marked"))
    if spans[0][0] != start and "prefix-mismatch" not in notes:
        notes.append("marker-starts-elsewhere")
    if not any(a < end <= b for a, b in spans):
        reaching = max(i for i, (a, _) in enumerate(spans) if a < end)
        spans[reaching] = (spans[reaching][0], end)
        notes.append("stop-added")
    return replace(turn, spans=tuple(spans), notes=tuple(notes))


def _next_words(turn: Turn, finder: _Finder) -> int:
    """Where the first words of any message stand after the turn's end."""
    end = turn.spans[0][1]
    return min((a for a, _, _ in finder.words if a >= end), default=len(finder.text) + 1)


def _agreement(first: str, second: str) -> int:
    """How many characters two texts have in common from the start."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    return next(i for i in range(shorter) if first[i] != second[i])
