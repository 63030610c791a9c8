"""What the sampler promises beside its numbers: independence, ends, streaming, errors."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lorakit import progress
from lorakit.adapters.attach import attach_adapter
from lorakit.adapters.modules import AdaptedLinear
from lorakit.base.head import backbone
from lorakit.errors import InputError, NonFiniteError
from lorakit.generate import Completion, SamplingSettings, generate
from lorakit.generate.decoders import Prompt, SlotDecoder
from lorakit.generate.longest import longest_passes
from lorakit.generate.sequence import Growing, Stops
from lorakit.recipe import LoraConfig
from tests import families, tiny
from tests.generate.law import LENGTHS, fresh_logprobs, largest_difference, prompts
from tests.tolerances import LOGPROBS_FLOAT32

TOKENIZER = tiny.tokenizer()
SAMPLED = SamplingSettings(max_new_tokens=15, seed=5, ignore_eos=True)


@pytest.fixture(scope="module", params=["llama", "mamba", "qwen3"])
def model(request):
    return families.build(request.param, initializer_range=0.2)


@pytest.fixture(scope="module")
def llama():
    return families.build("llama", initializer_range=0.2)


def tokens_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_sequence_does_not_depend_on_the_others(model, temperature: float) -> None:
    settings = dataclasses.replace(SAMPLED, temperature=temperature)
    asked = [*prompts(), *prompts()[1:4], prompts()[1]]  # some of them twice or three times
    seeds = [11, 22, 33, 44, 55, 66, 77, 88, 99, 110]
    whole = tokens_of(generate(model, TOKENIZER, asked, settings, seeds=seeds))
    for max_batch in (1, 2, 5):
        again = generate(model, TOKENIZER, asked, settings, seeds=seeds, max_batch=max_batch)
        assert tokens_of(again) == whole
    order = [4, 0, 9, 3, 5, 1, 7]
    some = generate(
        model,
        TOKENIZER,
        [asked[index] for index in order],
        settings,
        seeds=[seeds[index] for index in order],
        max_batch=3,
    )
    assert tokens_of(some) == [whole[index] for index in order]


def test_the_bar_moves_with_every_token(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long answers end together after minutes; until then it would not be seen."""
    told: list[tuple[int, str]] = []

    class Watched(progress.Bar):
        def advance(self, amount: int = 1, *, facts: str = "") -> None:
            told.append((amount, facts))

    monkeypatch.setattr(progress, "Bar", Watched)
    asked = prompts()
    completions = generate(llama, TOKENIZER, asked, SAMPLED)
    counts = [int(facts.split()[0]) for _, facts in told]
    assert sum(amount for amount, _ in told) == len(asked)
    assert len(told) >= SAMPLED.max_new_tokens and counts == sorted(set(counts))
    assert counts[-1] == sum(len(one.token_ids) for one in completions)


def test_a_prompt_is_computed_once_for_all_that_begin_with_it(model) -> None:
    first, second = prompts((17, 9))
    passed = []
    hook = backbone(model).register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    asked = [first, second] * 4
    generate(model, TOKENIZER, asked, dataclasses.replace(SAMPLED, max_new_tokens=3))
    hook.remove()
    # The last token of an answer is never read.
    assert sum(passed) == len(first) + len(second) + 2 * len(asked)


def test_a_group_larger_than_the_batch_joins_in_parts() -> None:
    decoder = SlotDecoder(families.build("llama"), max_batch=8)
    of_two, of_twenty = Prompt([1], 2), Prompt([1], 20)
    assert decoder.joining([of_two, of_twenty], 0) == [2, 6]
    assert decoder.joining([of_twenty], 6) == [2]
    assert decoder.joining([of_twenty], 7) == []  # one of eight is too small a part
    assert decoder.joining([of_two], 7) == []
    assert decoder.joining([Prompt([1])], 7) == [1]


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_log_probabilities_of_the_policy_that_samples(model, temperature: float) -> None:
    asked = prompts()
    settings = dataclasses.replace(SAMPLED, temperature=temperature, tempered_logprobs=True)
    plain = dataclasses.replace(settings, tempered_logprobs=False)
    found = generate(model, TOKENIZER, asked, settings)
    assert tokens_of(found) == tokens_of(generate(model, TOKENIZER, asked, plain))
    for prompt, one in zip(asked, found, strict=True):
        fresh = fresh_logprobs(model, prompt, one.token_ids) / temperature
        expected = fresh.log_softmax(-1).gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
        assert (expected - torch.from_numpy(one.logprobs)).abs().max() < LOGPROBS_FLOAT32


def test_seeds_decide(llama) -> None:
    asked = [prompts()[0]] * 3
    first = tokens_of(generate(llama, TOKENIZER, asked, SAMPLED))
    assert tokens_of(generate(llama, TOKENIZER, asked, SAMPLED)) == first
    assert len(set(map(tuple, first))) == 3  # a prompt's index is part of its seed
    other = dataclasses.replace(SAMPLED, seed=6)
    assert tokens_of(generate(llama, TOKENIZER, asked, other)) != first
    same = tokens_of(generate(llama, TOKENIZER, asked, SAMPLED, seeds=[1, 1, 1 + 2**64]))
    assert same[0] == same[1] == same[2]


def test_torchs_generator_is_left_alone(llama) -> None:
    before = torch.get_rng_state()
    generate(llama, TOKENIZER, prompts(), SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)


def test_slots_grow_and_are_taken_again() -> None:
    model = families.build("llama", max_position_embeddings=1024, initializer_range=0.2)
    asked = prompts((250, 3, 30, 258, 600, 2, 90))
    settings = dataclasses.replace(SAMPLED, max_new_tokens=40)
    most = (40, 30, 3, 12, 2, 25, 1)
    completions = generate(model, TOKENIZER, asked, settings, max_new_tokens=most, max_batch=3)
    assert [len(one.token_ids) for one in completions] == list(most)
    assert largest_difference(model, asked, completions) < LOGPROBS_FLOAT32


def test_a_stop_token_ends_a_sequence_and_is_included(llama) -> None:
    asked = prompts()
    free = generate(llama, TOKENIZER, asked, SAMPLED)
    stop = free[0].token_ids[4]
    stopped = generate(
        llama, TOKENIZER, asked, dataclasses.replace(SAMPLED, stop_ids=(stop,)), max_batch=2
    )
    for before, after in zip(free, stopped, strict=True):
        if stop in before.token_ids:
            end = before.token_ids.index(stop)
            assert after.token_ids == before.token_ids[: end + 1]
            assert after.finish_reason == "stop"
            assert after.text == TOKENIZER.decode(before.token_ids[:end], skip_special_tokens=True)
        else:
            assert after.token_ids == before.token_ids
            assert after.finish_reason == "length"
        assert after.logprobs.dtype == np.float32
        assert len(after.logprobs) == len(after.token_ids)


def test_the_models_own_end_tokens_stop_unless_ignored(llama) -> None:
    asked = [prompts()[0]] * 200
    settings = SamplingSettings(max_new_tokens=8, temperature=2.0)
    eos = {TOKENIZER.eos_token_id}
    stopped = generate(llama, TOKENIZER, asked, settings)
    free = generate(llama, TOKENIZER, asked, dataclasses.replace(settings, ignore_eos=True))
    ended = [one for one in stopped if one.finish_reason == "stop"]
    assert ended and all(one.token_ids[-1] in eos for one in ended)
    for before, after in zip(free, stopped, strict=True):
        assert before.token_ids[: len(after.token_ids)] == after.token_ids
        assert after.token_ids[:-1].count(TOKENIZER.eos_token_id) == 0
    assert all(one.finish_reason == "length" for one in free)


TEXT = "Überall naïve café — the patient rests. 12 mg twice daily. ###\n\nNote: 你好 rash 🙂 end"
STOP_STRINGS = ["ï", "é —", "rests. 1", "###\n", "\n\nNote", "你好", "好 r", "🙂", " end", "absent"]


@pytest.mark.parametrize("stop", STOP_STRINGS)
def test_a_stop_string_is_found_at_the_first_token_that_completes_it(stop: str) -> None:
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False)
    stops = Stops(TOKENIZER, (), ("never there", stop))
    sequence = Growing(0, [], 0, limit=len(ids))
    for count, token in enumerate(ids, start=1):
        sequence.token_ids.append(token)
        there = stop in TOKENIZER.decode(ids[:count])
        assert stops.end(sequence) == (there or count == len(ids))
        if there:
            break
    assert sequence.finish_reason == ("stop" if there else "length")
    assert sequence.text == TEXT.split(stop)[0]
    assert there == (stop != "absent")


def test_stop_strings_in_generated_text(llama) -> None:
    asked = prompts()
    free = generate(llama, TOKENIZER, asked, SAMPLED)
    clean = [(index, one) for index, one in enumerate(free) if "\ufffd" not in one.text[2:6]]
    assert clean
    for index, one in clean:
        stop = one.text[2:6]
        settings = dataclasses.replace(SAMPLED, stop_strings=(stop,))
        cut = generate(llama, TOKENIZER, asked, settings)[index]
        assert cut.finish_reason == "stop"
        assert cut.text == one.text[: one.text.index(stop)]
        assert cut.token_ids == one.token_ids[: len(cut.token_ids)]
        assert len(cut.logprobs) == len(cut.token_ids)


def test_tokens_stream_in_order(model) -> None:
    asked, heard = prompts(), [[] for _ in LENGTHS]
    completions = generate(
        model,
        TOKENIZER,
        asked,
        SAMPLED,
        max_batch=4,
        on_token=lambda index, token: heard[index].append(token),
    )
    assert heard == tokens_of(completions)


@pytest.mark.parametrize("has_bar", [True, False])
@pytest.mark.parametrize("listens", [True, False])
def test_progress_is_shown_unless_it_is_not_wanted(
    has_bar: bool, listens: bool, llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where somebody listens: a rollout looks at each token whether it was asked to stop."""
    shown: list[tuple[str, int | None]] = []
    finished: list[int] = []

    @contextmanager
    def counted(description: str, total: int | None = None):
        shown.append((description, total))
        yield SimpleNamespace(advance=lambda count, *, facts: finished.append(count))

    monkeypatch.setattr("lorakit.generate.sampler.bar", counted)
    generate(
        llama,
        TOKENIZER,
        prompts(),
        SAMPLED,
        on_token=(lambda *_: None) if listens else None,
        has_bar=has_bar,
        description="rolling out",
    )
    assert shown == [("rolling out", len(LENGTHS))]
    assert sum(finished) == len(LENGTHS) * has_bar


def test_the_models_context_ends_a_sequence() -> None:
    model = families.build("llama", max_position_embeddings=32)
    completions = generate(
        model, TOKENIZER, prompts((31, 20, 3)), dataclasses.replace(SAMPLED, max_new_tokens=20)
    )
    assert [len(one.token_ids) for one in completions] == [1, 12, 20]
    assert all(one.finish_reason == "length" for one in completions)


def test_no_prompts_no_completions(llama) -> None:
    assert generate(llama, TOKENIZER, [], SAMPLED) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"temperature": -0.1}, r"temperature -0\.1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": 0, "tempered_logprobs": True}, "a temperature above 0"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.5}, r"top_p 1\.5"),
        ({"top_k": 0}, "top_k 0"),
        ({"min_p": 1.5}, r"min_p 1\.5"),
        ({"min_p": float("nan")}, "min_p nan"),
        ({"stop_strings": ("a", "")}, "empty stop string"),
        ({"stop_strings": "abc"}, "tuple of strings"),
        ({"top_p": 2, "top_k": -1}, "top_p 2.*top_k -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingSettings(**values)


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([[5], []], {}, "prompt 1 is empty"),
        ([[5] * 256], {}, "prompt 0 has 256 tokens"),
        ([[5, 400]], {}, "prompt 0 has token 400"),
        ([[-1, 5]], {}, "prompt 0 has token -1"),
        ([[5], [6]], {"seeds": [1]}, "1 seeds for 2 prompts"),
        ([[5], [6]], {"max_new_tokens": [1]}, "1 max_new_tokens for 2 prompts"),
        ([[5]], {"max_new_tokens": [0]}, "max_new_tokens has 0"),
        ([[5]], {"max_new_tokens": [257]}, "max_new_tokens 257"),
        ([[5]], {"max_batch": 0}, "max_batch is 0"),
        ([[5]], {"settings": SamplingSettings(max_new_tokens=300)}, "max_new_tokens 300"),
        ([[5]], {"settings": SamplingSettings(stop_ids=(7, 400))}, "stop_ids [400]"),
    ],
)
def test_requests_that_cannot_work_are_refused(llama, asked, options, message: str) -> None:
    settings = options.pop("settings", SAMPLED)
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        generate(llama, TOKENIZER, asked, settings, **options)


def test_a_model_that_computes_no_numbers_is_an_error() -> None:
    model = families.build("llama")
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    for temperature in (0, 1.0):
        with pytest.raises(NonFiniteError, match="not finite"):
            generate(
                model,
                TOKENIZER,
                prompts(),
                dataclasses.replace(SAMPLED, temperature=temperature),
            )


def test_the_largest_passes_compute_as_answers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dense weights in the place of every adapted layer, the output head's too."""
    model = families.build("llama").eval()
    attach_adapter(model, LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    monkeypatch.setattr(AdaptedLinear, "forward", None)
    options = {"max_batch": 2, "max_dense_bytes": 1 << 30}
    generate(model, TOKENIZER, prompts(), SamplingSettings(max_new_tokens=2), **options)
    assert list(longest_passes(model, prompts(), 2, **options))
