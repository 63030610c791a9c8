"""Letters and answers, put together from words.txt."""

import random
import re
from functools import cache
from pathlib import Path

Words = dict[str, list[str]]
SLOT = re.compile(r"<(?:(\d+)-(\d+)|([a-z_]+))(\.\d)?>")


@cache
def domains() -> dict[str, Words]:
    found: dict[str, Words] = {}
    text = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8")
    for line in re.sub(r"\n +", " ", text).splitlines():
        if line.startswith("["):
            found[line[1:-1]] = {}
        elif line:
            key, _, rest = line.partition(":")
            found[list(found)[-1]][key] = [part.strip() for part in rest.split("|")]
    return found


def say(rng: random.Random, text: str, words: Words, memo: dict[str, str]) -> str:
    """`{a/b}`: one of them; `<3-9>`: a number, with .0 told by the words before; `<a.1>`: kept."""

    def fill(match: re.Match[str]) -> str:
        low, high, name, same = match.groups()
        if same and match[0] in memo:
            return memo[match[0]]
        own = random.Random(f"{match[0]} {sorted(memo.items())}") if same == ".0" else rng
        chosen = str(own.randint(int(low), int(high))) if low else rng.choice(words[name])
        chosen = say(rng, chosen, words, memo)
        if same and same != ".0":
            memo[match[0]] = chosen
        return chosen

    text = re.sub(r"\{([^{}]*/[^{}]*)\}", lambda match: rng.choice(match[1].split("/")), text)
    return SLOT.sub(fill, text)


def up(text: str) -> str:
    """With a capital letter and a full stop."""
    at = 1 if text[:1] in "¿¡" else 0
    text = text[:at] + text[at : at + 1].upper() + text[at + 1 :]
    return text if text[-1:] in ".?!。" else text + "."


@cache
def talk(domain: str, count: int, seed: int = 0) -> tuple[tuple[str, str, int], ...]:
    """(letter, answer, number of its topic); no two letters say much the same."""
    rng = random.Random(f"{domain} {seed}")
    words = domains()["common"] | domains()[domain]
    glue = "" if domain == "bunka" else " "
    seen: dict[str, list[set[int]]] = {}
    rows, tries = [], 0
    while len(rows) < count:
        tries += 1
        memo: dict[str, str] = {}
        topic = rng.randrange(len(words["topic"]))
        asked, told = (say(rng, p.strip(), words, memo) for p in words["topic"][topic].split("=>"))
        chosen = rng.sample(range(len(words["detail"])), rng.randint(2, 4))
        others = seen.setdefault(f"{topic} {sorted(memo.items())[-1:]}", [])
        if any(len(other & set(chosen)) > 1 + tries // (20 * count) for other in others):
            continue
        others.append(set(chosen))
        body = [up(asked)] + [up(say(rng, words["detail"][i], words, {})) for i in chosen]
        if rng.random() < 0.35:
            rng.shuffle(body)
        letter = [say(rng, rng.choice(words["open"]), words, {}), *body]
        letter.append(rng.choice(words["ask"]))
        extra = [up(say(rng, m, words, {})) for m in rng.sample(words["more"], rng.randint(0, 2))]
        answer = [rng.choice(words["ack"]), up(told), *extra]
        answer.append(say(rng, rng.choice(words["close"]), words, {}))
        rows.append((glue.join(filter(None, letter)), glue.join(filter(None, answer)), topic))
    return tuple(rows)
