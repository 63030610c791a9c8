"""What a reader of before and after asks next, from what was measured and a look at training rows:
do other wordings matter, and was it learned by heart?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.data.questions import questions
from lorakit.data.variants import source_and_variant
from lorakit.evaluate.calibration import CALIBRATION
from lorakit.evaluate.drawn import HeldOut, sample
from lorakit.evaluate.measures import Measures
from lorakit.evaluate.memorisation import measure_memorisation, training_answers
from lorakit.evaluate.overfitting import ValidationLosses, measure_overfitting
from lorakit.evaluate.result import Proof, SetResult
from lorakit.evaluate.seen_rows import seen_rows
from lorakit.evaluate.statistics import MIN_EXAMPLES
from lorakit.evaluate.token_distributions import both_distributions
from lorakit.evaluate.variants import measure_variant, same_rows

# The set whose rows are like those that were trained on.
LIKE_TRAINING = "in_domain"


def with_proofs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: Mapping[str, SetResult],
    sets: Mapping[str, HeldOut],
    train: HeldOut | None,
    measures: Measures,
    validation: ValidationLosses | None,
    *,
    stop_ids: Sequence[int],
    token_budget: int,
    packed: bool,
) -> dict[str, SetResult]:
    """The results with what else they prove.

    Beside what `compare_sets` measured this takes one look at as many training rows as in_domain
    has, base and tuned (see `seen_rows`); all else is computed on the host in seconds.

    Args:
        model: with an adapter attached and switched on.
        tokenizer: of the model.
        results: of `compare_sets`.
        sets: those that were measured.
        train: the rows that were trained on; None: none were, for a policy is asked them and learns
            from its own completions: over-fitting, memorisation and calibration, which are of
            right answers that it never writes, are not told then.
        measures: what was measured.
        validation: what validation saw during training.
        stop_ids: tokens that end an answer.
        token_budget: tokens of one forward pass.
        packed: whether the family may be packed.
    """
    results = with_variants(results, sets, measures)
    proofs: dict[str, dict[str, Proof]] = {name: dict(one.proofs) for name, one in results.items()}
    like = results[LIKE_TRAINING].measured if LIKE_TRAINING in results else None
    if (
        train is not None
        and like is not None
        and min(len(train.examples), len(like.indices)) >= MIN_EXAMPLES
    ):
        unseen = sample(sets[LIKE_TRAINING].examples, like.indices)
        chosen, source = seen_rows(
            train.examples, train.meanings, unseen, len(like.indices), seed=measures.seed
        )
        seen = both_distributions(
            model,
            sample(train.examples, chosen),
            with_kl=False,
            token_budget=token_budget,
            packed=packed,
            description="training rows",
        )
        overfitting = measure_overfitting(
            (seen.base.losses, seen.tuned.losses),
            (like.base, like.tuned),
            validation,
            source=source,
            seed=measures.seed,
        )
        if overfitting is not None:
            proofs[LIKE_TRAINING]["overfitting"] = overfitting
    if train is None:
        for told in proofs.values():
            told.pop(CALIBRATION, None)
    else:
        for name, memory in _memorisations(tokenizer, results, sets, train, measures, stop_ids):
            proofs[name]["memorisation"] = memory
    return {name: replace(one, proofs=proofs[name]) for name, one in results.items()}


def with_variants(
    results: Mapping[str, SetResult], sets: Mapping[str, HeldOut], measures: Measures
) -> dict[str, SetResult]:
    """The results, each variant of a set held against that set; of what is measured so far."""
    told = dict(results)
    for name, varied in results.items():
        of = source_and_variant(name)
        if of is not None:
            source, how = of
            places = same_rows(sets[source].meanings, sets[name].meanings)
            proof = measure_variant(
                results[source], varied, places, source=source, name=how, seed=measures.seed
            )
            told[name] = replace(varied, proofs=varied.proofs | {"variant": proof})
    return told


def _memorisations(
    tokenizer: PreTrainedTokenizerBase,
    results: Mapping[str, SetResult],
    sets: Mapping[str, HeldOut],
    train: HeldOut,
    measures: Measures,
    stop_ids: Sequence[int],
) -> list[tuple[str, Proof]]:
    """Of every answered set; of variants not, whose right answers are those of their source."""
    answered = {
        name: one.answered
        for name, one in results.items()
        if one.answered and source_and_variant(name) is None
    }
    if not answered:
        return []
    asked = [
        one.prompt_ids
        for name, examples in answered.items()
        for one in questions(sets[name].examples, [e.index for e in examples], stop_ids)
    ]
    training = training_answers(tokenizer, train.examples, asked, seed=measures.seed)
    found = [
        (name, measure_memorisation(examples, training, train.meanings, seed=measures.seed))
        for name, examples in answered.items()
    ]
    return [(name, one) for name, one in found if one is not None]
