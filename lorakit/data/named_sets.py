"""The sets a recipe names: train, validation, and what the result is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lorakit.data.contract import Finding, Findings
from lorakit.data.length_limit import length_limit
from lorakit.data.meanings import Meaning, Rows, held_by
from lorakit.data.parts import Parts, parts_of, tell_topics
from lorakit.data.prepare import Prepared, prepare_meanings, read_and_prepare
from lorakit.data.reading import DataRules, SourceSpec, check_answered, read_meanings
from lorakit.data.split import keep_apart
from lorakit.data.variants import variant_name
from lorakit.data.varied import prepare_varied
from lorakit.errors import DataError
from lorakit.files import cache_folder
from lorakit.recipe import DataSection, DataSource, EvaluateSection, Recipe, SourceList
from lorakit.recipe.builtin_names import is_builtin_data
from lorakit.recipe.warm_start import TRAIN_SET, warm_start_recipe

# Row format of the sets that ship with lorakit.
BUILTIN_FORMAT = "messages"
VALIDATION = "validation"


@dataclass(frozen=True)
class NamedSets:
    """Every set of a recipe, ready to train on and to measure.

    Attributes:
        train: the training set.
        validation: the set that decides when to stop, if there is one.
        evaluation: by name; `in_domain` is the validation set where the recipe names no other.
        warm_start: sets of the warm start, measured on the same; None: the recipe has none.
    """

    train: Prepared
    validation: Prepared | None
    evaluation: dict[str, Prepared]
    warm_start: NamedSets | None = None

    def by_name(self) -> dict[str, Prepared]:
        """All sets but those of the warm start, train first."""
        validation = {} if self.validation is None else {VALIDATION: self.validation}
        return {"train": self.train} | validation | self.evaluation

    def shown(self) -> dict[str, Prepared]:
        """All sets that people look at: `by_name`, and what the warm start trains on."""
        traces = {} if self.warm_start is None else {TRAIN_SET: self.warm_start.train}
        return self.by_name() | traces

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the rows take while a run goes on, after `forget_rows`: where they
        stand, what cannot be read again, and where their examples lie on disk, or these
        themselves."""
        total = 0
        for prepared in self.every_set():
            total += prepared.repeats.nbytes + prepared.examples.held_bytes
            total += held_by(prepared.meanings)[0]
        return total + sum(rows.held_bytes for rows in self._row_sets())

    def forget_rows(self) -> None:
        """Let go of rows that can be read again: rules look at all of them, a run at few."""
        for rows in self._row_sets():
            rows.forget()

    def every_set(self) -> list[Prepared]:
        """All sets, each once, those of the warm start too."""
        sets = [*self.by_name().values()]
        if self.warm_start is not None:
            sets += self.warm_start.by_name().values()
        return list({id(one): one for one in sets}.values())

    def _row_sets(self) -> list[Rows]:
        found = (rows for one in self.every_set() for rows in held_by(one.meanings)[1])
        return list({id(rows): rows for rows in found}.values())

    def findings(self) -> list[Finding]:
        """The findings of all sets, each message opening with the set's name."""
        found: list[Finding] = []
        told: list[Prepared] = []
        for name, prepared in self.by_name().items():
            if not any(prepared is other for other in told):
                told.append(prepared)
                found += [replace(f, message=f"{name}: {f.message}") for f in prepared.findings]
        return found


def is_validation(sets: Mapping[str, Prepared], name: str) -> bool:
    """Whether an evaluation set has the validation set's rows, named as such or for want of others.

    Args:
        sets: see `NamedSets.by_name`.
    """
    return name != VALIDATION and sets[name] is sets.get(VALIDATION)


def title_of(sets: Mapping[str, Prepared], name: str) -> str:
    """How a set is listed: `in_domain (the validation rows)` where these serve as such."""
    return f"{name} (the {VALIDATION} rows)" if is_validation(sets, name) else name


def prepare_named_sets(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    *,
    cache_dir: str | Path | None = None,
    refused: list[DataError] | None = None,
) -> NamedSets:
    """Read, split, tokenize and check every set of a recipe.

    Args:
        recipe: sections `data` and `evaluate`, and the seed of `train`.
        tokenizer: the base model's.
        config: the base model's; its context bounds max_length.
        cache_dir: where tokens are kept; None: `token_cache()`.
        refused: takes the faults of rows in sets that have sound ones too; None: they are raised.

    Raises:
        DataError: see `prepare_examples`; also a max_length over the model's context.
    """
    data = recipe.data
    rules = rules_of(data, config)
    where = token_cache() if cache_dir is None else Path(cache_dir)
    parts, training = _train_and_held(recipe, tokenizer, config, where, refused)
    traces = _warm_start(recipe, tokenizer, config, where, refused)
    trained: Sequence[Meaning] = parts.train
    if traces is not None:
        trained = [*trained, *traces.train.meanings]
    kept: dict[str, list[Meaning]] = {}

    def measured(
        meanings: Sequence[Meaning], name: str, apart_from: Sequence[Meaning] = ()
    ) -> Prepared:
        findings = Findings()
        with _named(name):
            if name in (VALIDATION, "in_domain"):
                meanings = parts.without_held_out(meanings, findings)
            apart = _rows_apart(meanings, trained, apart_from, findings, data.group)
            kept[name] = apart
            return _held_out(meanings, apart, findings, tokenizer, rules, where)

    held = parts.validation
    validation = None if held is None else measured(held, VALIDATION)
    named = {
        "in_domain": recipe.evaluate.in_domain,
        "out_of_domain": recipe.evaluate.out_of_domain,
        "retention": recipe.evaluate.retention,
    }
    evaluation = {
        name: measured(
            read_meanings(specs_of(sources), rules, cache_dir=where, refused=refused),
            name,
            held or (),
        )
        for name, sources in named.items()
        if sources is not None and sources != data.validation
    }
    if parts.unseen is not None:
        unseen = measured(parts.unseen, "out_of_domain", held or ())
        evaluation["out_of_domain"] = replace(unseen, findings=tell_topics(parts) + unseen.findings)
    if validation is not None:
        if recipe.train.early_stopping_patience is not None and "in_domain" not in evaluation:
            validation = _deciding(validation)
        same = [name for name, sources in named.items() if sources == data.validation]
        evaluation |= dict.fromkeys(same, validation)
        evaluation.setdefault("in_domain", validation)
        kept.setdefault("in_domain", kept[VALIDATION])
    for name in recipe.evaluate.variants:
        with _named(variant_name("in_domain", name)):
            evaluation[variant_name("in_domain", name)] = prepare_varied(
                kept["in_domain"],
                evaluation["in_domain"],
                name,
                tokenizer,
                rules,
                seed=recipe.train.seed,
                cache_dir=where,
            )
    if traces is not None:
        traces = replace(traces, evaluation=evaluation)
    return NamedSets(training, validation, evaluation, traces)


def _warm_start(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    cache_dir: Path,
    refused: list[DataError] | None,
) -> NamedSets | None:
    """What the warm start trains on and validates with."""
    stage = warm_start_recipe(recipe)
    if stage is None:
        return None
    alone = stage.model_copy(update={"evaluate": EvaluateSection()})
    with _named("warm_start"):
        sets = prepare_named_sets(alone, tokenizer, config, cache_dir=cache_dir, refused=refused)
    return replace(sets, evaluation={})


def _deciding(validation: Prepared) -> Prepared:
    """The validation set, with a word on its being measured although it decides when to stop."""
    told = Findings()
    told.add("in-domain-decides-when-to-stop", "")
    return replace(validation, findings=told.collected() + validation.findings)


def _train_and_held(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    cache_dir: Path,
    refused: list[DataError] | None,
) -> tuple[Parts, Prepared]:
    """The rows by their use, and what became of those that are trained on."""
    data, train = recipe.data, specs_of(recipe.data.train)
    rules = training_rules(recipe, config)
    apart = None  # read first: a fault in it need not wait for the training rows
    if data.validation is not None and not isinstance(data.validation, float):
        given = specs_of(data.validation)
        answered = rules_of(data, config)
        apart = read_meanings(given, answered, cache_dir=cache_dir, refused=refused)
    if isinstance(data.validation, float) or data.hold_out_topics is not None:
        # Which rows are trained is known when all are read.
        rows = read_meanings(train, rules, cache_dir=cache_dir, refused=refused)
        parts = parts_of(recipe, rows)
        for name, held in ((VALIDATION, parts.validation), ("out_of_domain", parts.unseen)):
            with _named(name):
                for one in held or () if rules.asks else ():
                    check_answered(one.conversation, one.location)
        with _named("train"):
            prepared = prepare_meanings(parts.train, tokenizer, rules, cache_dir=cache_dir)
        return (parts if apart is None else replace(parts, validation=apart)), prepared
    with _named("train"):
        rows, prepared = read_and_prepare(
            train, tokenizer, rules, cache_dir=cache_dir, refused=refused
        )
    return Parts(rows, apart), prepared


def _rows_apart(
    meanings: Sequence[Meaning],
    train: Sequence[Meaning],
    validation: Sequence[Meaning],
    findings: Findings,
    group: str | None,
) -> list[Meaning]:
    """The rows that are neither trained on nor decide when to stop."""
    kept = keep_apart(meanings, train, findings, group=group, validation=validation)
    if not kept:
        shared = findings.count("rows-shared-with-validation")
        others = f" or the validation set ({shared})" if shared else ""
        raise DataError(
            f"all {len(meanings)} rows also occur in the training data{others}; they cannot show "
            "what was learned. Name rows that are not trained on, or leave the set out."
        )
    return kept


def _held_out(
    meanings: Sequence[Meaning],
    kept: Sequence[Meaning],
    findings: Findings,
    tokenizer: PreTrainedTokenizerBase,
    rules: DataRules,
    cache_dir: Path,
) -> Prepared:
    """A held-out set of the rows that were kept."""
    ready = prepare_meanings(kept, tokenizer, rules, cache_dir=cache_dir)
    return replace(
        ready,
        read=len(meanings),
        dropped=ready.dropped + len(meanings) - len(kept),
        findings=findings.collected() + ready.findings,
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Open the message of a DataError with the set's name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def rules_of(data: DataSection, config: PretrainedConfig) -> DataRules:
    """The recipe's rules; max_length defaults to the model's context and may not exceed it."""
    context = context_of(config)
    if data.max_length is not None and context is not None and data.max_length > context:
        raise DataError(
            f"max_length {data.max_length} is over the model's context of {context} tokens. Lower "
            "data.max_length, or leave it out to use the whole context."
        )
    return DataRules(
        format=data.format,
        columns=data.columns,
        system=data.system,
        max_length=data.max_length or context,
        context=context,
        too_long=data.too_long,
        max_dropped=data.max_dropped,
        trained=data.trained,
        chat_template=None if data.chat_template is None else read_template(data.chat_template),
    )


def training_rules(recipe: Recipe, config: PretrainedConfig) -> DataRules:
    """The rules of `data.train`, whose rows need no answer where they are asked."""
    return replace(rules_of(recipe.data, config), asks=recipe.train.method == "grpo")


def context_of(config: PretrainedConfig) -> int | None:
    """Tokens the model can attend to, or None where its config states no limit (Mamba).

    For rotary embeddings that choose their frequencies by the length, only as many as they treat
    alike in every micro-batch.
    """
    text = config.get_text_config()
    # Which attributes a config has differs by model_type; transformers offers no other question.
    context = getattr(text, "max_position_embeddings", None)
    known = [context, length_limit(config)]
    return min((limit for limit in known if isinstance(limit, int) and limit > 0), default=None)


def read_template(path: str | Path) -> str:
    """The Jinja source in a file.

    Raises:
        DataError: no such file, or no text.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"chat_template {path}: cannot be read: {error}. Name a .jinja text file."
        ) from error


def specs_of(sources: SourceList) -> list[SourceSpec]:
    """What to read for the value of a `train`, `validation` or evaluation key."""
    listed = sources if isinstance(sources, list) else [sources]
    return [_spec(source) for source in listed]


def _spec(source: str | DataSource) -> SourceSpec:
    if isinstance(source, str):
        source = DataSource(path=source)
    row_format, columns = source.format, source.columns
    if is_builtin_data(source.path):  # the section's format and columns are those of its own files
        row_format, columns = row_format or BUILTIN_FORMAT, columns or {}
    return SourceSpec(
        source.path,
        weight=source.weight,
        split=source.split,
        name=source.name,
        format=row_format,
        columns=columns,
        system=source.system,
    )


def token_cache() -> Path:
    """Where tokens are kept between runs."""
    return cache_folder() / "tokens"
