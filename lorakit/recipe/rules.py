"""What a recipe may not say although every single value is allowed.

That is: options that cannot take effect, and options whose engine is not built yet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import regex

from lorakit.recipe.builtin_names import is_builtin_model
from lorakit.recipe.finding_names import finding_names
from lorakit.recipe.metric_names import CHOICES, LOSSES, WIN_RATE
from lorakit.recipe.optimizer_names import OPTIMS_ELSEWHERE, OPTIMS_NOT_BUILT

if TYPE_CHECKING:
    from lorakit.recipe.sections.adapter import LoraConfig
    from lorakit.recipe.sections.evaluate import EvaluateSection
    from lorakit.recipe.sections.recipe import Recipe
    from lorakit.recipe.sections.train import TrainSection
    from lorakit.recipe.sft_config import SFTConfig

PACKAGE = Path(__file__).parents[1]

BLOCKWISE = ("nf4", "fp4")  # the quantizations that have blocks, and scales of them
METHODS = ("sft",)
DISTANCE = "kl"
METRICS = (*LOSSES, DISTANCE, *CHOICES, WIN_RATE)  # and every scorer of tasks/
EVALUATION_SETS = ("in_domain", "out_of_domain", "retention")
RETRIEVAL_OPTIONS = ("text_column", "chunk_characters", "overlap_characters", "top_k", "prompt")
NEEDED = {"regex": "a pattern such as '\\d+ mg'", "json_schema": "a file with a JSON schema"}
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
# PEFT's initializations that lorakit does not have: refused by name instead of "unknown".
INITS_NOT_BUILT = ("corda", "lora_ga", "mica", "orthogonal")
# Bits per weight of what `base.quantization` stores.
BITS = {"nf4": 4, "fp4": 4, "int8": 8}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe: where (`("base", "block_size")`) and what."""

    path: tuple[str | int, ...]
    message: str
    effectless: bool = False  # the value is allowed, it only changes nothing


class RuleError(ValueError):
    """Carries faults through pydantic, which keeps the exception that a validator raises."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, f.path))}: {f.message}" for f in faults))
        self.faults = faults


def broken_rules(recipe: Recipe) -> list[Fault]:
    """Every option of `recipe` that is not built yet or cannot take effect."""
    return [
        *_base(recipe),
        *adapter_rules(recipe.adapter),
        *_loftq(recipe),
        *_data(recipe),
        *_train(recipe),
        *_evaluate(recipe),
        *_check(recipe),
        *_compare(recipe),
        *_output(recipe),
    ]


def _base(recipe: Recipe) -> Iterator[Fault]:
    base = recipe.base
    if not DEVICE.fullmatch(base.device):
        yield _unknown(("base", "device"), base.device, ("auto", "cpu", "cuda", "cuda:0"))
    if not base.model.strip():
        yield Fault(("base", "model"), "is empty; give a folder, a hub id or `builtin`")
    if base.quantization not in BLOCKWISE:
        for name in ("double_quantization", "block_size"):
            if name in base.model_fields_set:
                yield _no_effect(
                    ("base", name),
                    f"base.quantization is {base.quantization}",
                    f"set it to {' or '.join(BLOCKWISE)}",
                )
    if base.offload == "none" and base.max_device_memory is not None:
        yield _no_effect(
            ("base", "max_device_memory"),
            "base.offload is none",
            "set offload to auto, cpu or disk",
        )
    for name in ("add_tokens", "add_special_tokens"):
        if getattr(base, name) == []:
            yield _no_effect(("base", name), "it names no token", "name some")
    if base.revision is not None:
        if is_builtin_model(base.model):
            yield _no_effect(("base", "revision"), "base.model is builtin", "name a hub id")
        elif Path(base.model).is_dir():
            yield _no_effect(("base", "revision"), "base.model is a folder", "name a hub id")


def adapter_rules(adapter: LoraConfig) -> Iterator[Fault]:
    """The rules of the adapter section alone."""
    kinds = _names_in("adapters/kinds")
    if adapter.kind is not None and adapter.kind not in kinds:
        yield _unknown(("adapter", "kind"), adapter.kind, kinds)
    init = adapter.init_lora_weights
    if isinstance(init, str) and init.lower() in INITS_NOT_BUILT:
        yield _not_built(
            ("adapter", "init_lora_weights"), init, ("true", "false", *_names_in("adapters/inits"))
        )
    if adapter.target_parameters:
        for name, given in (
            ("use_dora", adapter.use_dora),
            ("lora_dropout", adapter.lora_dropout > 0),
        ):
            if given:
                yield Fault(
                    ("adapter", name),
                    "cannot be applied to target_parameters; possible for experts in PEFT's format "
                    "is plain LoRA without dropout. Remove one of the two",
                )
    if adapter.layers_pattern is not None and adapter.layers is None:
        yield _no_effect(
            ("adapter", "layers_pattern"), "adapter.layers_to_transform is not set", "set it"
        )
    for name, section in (("loftq", "loftq_config"), ("eva", "eva_config")):
        if getattr(adapter, section) is not None and init != name:
            yield _no_effect(
                ("adapter", section),
                f"adapter.init_lora_weights is {str(init).lower()}",
                f"set it to {name}",
            )
    if adapter.path is not None:
        for name in sorted(adapter.model_fields_set - {"path"}):
            yield _no_effect(
                ("adapter", name),
                "adapter.path continues from a saved adapter, whose own config says it",
                "leave path out to start a new adapter",
            )


def _loftq(recipe: Recipe) -> Iterator[Fault]:
    """LoftQ corrects what the base's storage takes from the weights."""
    adapter, stored = recipe.adapter, recipe.base.quantization
    if adapter.init_lora_weights != "loftq":
        return
    if stored == "none":
        yield _no_effect(
            ("adapter", "init_lora_weights"), "base.quantization is none", "set that to nf4"
        )
    bits = None if adapter.loftq_config is None else adapter.loftq_config.loftq_bits
    if bits is not None and stored in BITS and bits != BITS[stored]:
        yield Fault(
            ("adapter", "loftq_config", "loftq_bits"),
            f"{bits} is not what the base is stored in; possible: {BITS[stored]}, the bits of "
            f"base.quantization {stored}",
        )


def _data(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    yield from _format(("data", "format"), data.format)
    if data.group is not None and not isinstance(data.validation, float):
        yield _no_effect(
            ("data", "group"), "data.validation is no fraction of train", "set validation: 0.1"
        )
    topics = data.hold_out_topics
    if topics is not None and topics.values is not None and _given(topics, "fraction"):
        yield _no_effect(
            ("data", "hold_out_topics", "fraction"), "values says which topics", "remove values"
        )
    if topics is not None and recipe.evaluate.out_of_domain is not None:
        yield Fault(
            ("evaluate", "out_of_domain"),
            "names a set, but data.hold_out_topics makes one of that name; remove one of the two",
        )
    for name in ("train", "validation"):
        yield from _sources(("data", name), getattr(data, name), weighted=name == "train")


def _format(path: tuple[str | int, ...], name: str) -> Iterator[Fault]:
    formats = ("auto", *_names_in("data/formats"))
    if name not in formats:
        yield _unknown(path, name, formats)


def _sources(place: tuple[str | int, ...], value: Any, *, weighted: bool) -> Iterator[Fault]:
    """The rules of a set: a path, a set with options, or a list of both."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _sources((*place, index), one, weighted=weighted)
    elif isinstance(value, str) and not value.strip():
        yield Fault(place, "is empty; give a file, a folder or a hub id")
    elif value is not None and not isinstance(value, str | float):  # a DataSource
        yield from _sources((*place, "path"), value.path, weighted=weighted)
        if not weighted and _given(value, "weight"):
            yield _no_effect(
                (*place, "weight"), "only rows that are trained on are repeated", "name other rows"
            )


def _train(recipe: Recipe) -> Iterator[Fault]:
    train = recipe.train
    yield from _loop(("train",), train)
    if recipe.data.validation is None:
        for name in ("eval_steps", "early_stopping_patience"):
            if getattr(train, name) is not None:
                yield _no_effect(
                    ("train", name), "data.validation is not set", "set it to a set or a fraction"
                )


def sft_rules(config: SFTConfig) -> Iterator[Fault]:
    """The rules of the options of `train_sft`; whether rows validate is seen when it is called."""
    yield from _loop((), config)
    yield from _format(("format",), config.format)


def _loop(place: tuple[str | int, ...], train: TrainSection) -> Iterator[Fault]:
    """The rules of the training options that need no other section."""
    section = "".join(f"{part}." for part in place)
    if train.method not in METHODS:
        yield _not_built((*place, "method"), train.method, METHODS)
    if train.max_steps is not None and _given(train, "num_train_epochs"):
        yield _no_effect(
            (*place, "num_train_epochs"), f"{section}max_steps says how long", "remove max_steps"
        )
    yield from _optim(place, train)
    if train.early_stopping_patience is None and _given(train, "early_stopping_threshold"):
        yield _no_effect(
            (*place, "early_stopping_threshold"),
            f"{section}early_stopping_patience is not set",
            "set it",
        )


def _optim(place: tuple[str | int, ...], train: TrainSection) -> Iterator[Fault]:
    section = "".join(f"{part}." for part in place)
    optims = _names_in("optimizers/forms")
    if train.optim in OPTIMS_ELSEWHERE:
        here = OPTIMS_ELSEWHERE[train.optim]
        yield Fault((*place, "optim"), f"{train.optim!r} is not built; here it is {here}")
    elif train.optim in OPTIMS_NOT_BUILT:
        yield _not_built((*place, "optim"), train.optim, optims)
    elif train.optim not in optims:
        yield _unknown((*place, "optim"), train.optim, optims)
    elif train.optim_memory is not None and not train.optim.startswith("paged_"):
        yield _no_effect(
            (*place, "optim_memory"),
            f"{section}optim {train.optim} keeps its whole state on the device",
            f"set {section}optim to paged_adamw_32bit or paged_adamw_8bit",
        )
    if train.loraplus_lr_embedding is not None and train.loraplus_lr_ratio is None:
        yield _no_effect(
            (*place, "loraplus_lr_embedding"), f"{section}loraplus_lr_ratio is not set", "set it"
        )


def _evaluate(recipe: Recipe) -> Iterator[Fault]:
    evaluate = recipe.evaluate
    named = {name: getattr(evaluate, name) for name in EVALUATION_SETS}
    for name, value in named.items():
        yield from _sources(("evaluate", name), value, weighted=False)
    measured = {name for name, value in named.items() if value is not None}
    if recipe.data.validation is not None:
        measured.add("in_domain")
    if recipe.data.hold_out_topics is not None:
        measured.add("out_of_domain")
    yield from _metrics(recipe)
    yield from _variants(evaluate.variants, has_in_domain="in_domain" in measured)
    yield from _judge(recipe)
    if not measured:
        for name in ("metrics", "primary", "max_examples"):
            if _given(evaluate, name):
                yield _no_effect(
                    ("evaluate", name), "no set to evaluate on is named", "set evaluate.in_domain"
                )
    elif isinstance(evaluate.primary, dict):
        for name in evaluate.primary:
            if name in EVALUATION_SETS and name not in measured:
                yield _no_effect(
                    ("evaluate", "primary", name), f"evaluate.{name} is not set", "set it"
                )
    answered = measured and set(evaluate.metrics) - {*LOSSES, DISTANCE, *CHOICES}
    for name in ("max_generated", "max_new_tokens", "max_batch"):
        if _given(evaluate, name) and not answered:
            yield _no_effect(
                ("evaluate", name), "nothing is answered", "name a set and a scorer in metrics"
            )
    if evaluate.retention is None and _given(evaluate, "margin"):
        yield _no_effect(("evaluate", "margin"), "evaluate.retention is not set", "set it")


def _variants(variants: list[str], *, has_in_domain: bool) -> Iterator[Fault]:
    possible = _names_in("data/variants")
    for index, name in enumerate(variants):
        if name not in possible:
            yield _unknown(("evaluate", "variants", index), name, possible)
        elif name in variants[:index]:
            yield Fault(("evaluate", "variants", index), f"{name!r} is named twice; remove one")
    if variants and not has_in_domain:
        yield _no_effect(
            ("evaluate", "variants"), "evaluate.in_domain is not set", "set it or data.validation"
        )


def _compare(recipe: Recipe) -> Iterator[Fault]:
    compare = recipe.compare
    for name in ("documents", "prices", "api", "text_column"):
        given = getattr(compare, name)
        if given is not None and not given.strip():
            yield Fault(("compare", name), "is empty; give it, or leave it out")
    if compare.documents is None:
        for name in RETRIEVAL_OPTIONS:
            if _given(compare, name):
                yield _no_effect(("compare", name), "compare.documents is not set", "set it")
    elif compare.overlap_characters > compare.chunk_characters // 2:
        yield Fault(
            ("compare", "overlap_characters"),
            f"{compare.overlap_characters} is over half of compare.chunk_characters "
            f"{compare.chunk_characters}; possible: 0 to {compare.chunk_characters // 2}",
        )


def _metrics(recipe: Recipe) -> Iterator[Fault]:
    evaluate = recipe.evaluate
    possible = (*METRICS, *_names_in("tasks"))
    for index, metric in enumerate(evaluate.metrics):
        if metric not in possible:
            yield _unknown(("evaluate", "metrics", index), metric, possible)
    usable = tuple(dict.fromkeys(["loss", *(m for m in evaluate.metrics if m in possible)]))
    yield from _distance(evaluate)
    if isinstance(evaluate.primary, str):
        if evaluate.primary not in (*usable, DISTANCE):
            yield _not_measured(("evaluate", "primary"), evaluate.primary, usable)
    else:
        for name, metric in evaluate.primary.items():
            if name not in EVALUATION_SETS:
                yield _unknown(("evaluate", "primary", name), name, EVALUATION_SETS)
            elif metric not in usable and metric != DISTANCE:
                yield _not_measured(("evaluate", "primary", name), metric, usable)
    for option in ("regex", "json_schema"):
        given = getattr(evaluate, option) is not None
        if given and option not in evaluate.metrics:
            yield _no_effect(
                ("evaluate", option), f"evaluate.metrics lacks {option}", "name it there"
            )
        if option in evaluate.metrics and not given:
            place = ("evaluate", "metrics", evaluate.metrics.index(option))
            yield Fault(
                place, f"{option!r} needs evaluate.{option}; set it; possible: {NEEDED[option]}"
            )
    if evaluate.regex is not None:
        try:
            regex.compile(evaluate.regex)
        except regex.error as error:
            yield Fault(
                ("evaluate", "regex"),
                f"{evaluate.regex!r} is no pattern: {error}; possible: Python's syntax",
            )


def _distance(evaluate: EvaluateSection) -> Iterator[Fault]:
    """KL to the base is measured on retention: elsewhere a change is what was asked for."""
    if DISTANCE in evaluate.metrics and evaluate.retention is None:
        place = ("evaluate", "metrics", evaluate.metrics.index(DISTANCE))
        yield _no_effect(place, "it is measured on evaluate.retention, which is not set", "set it")
    primary = evaluate.primary
    named = {"": primary} if isinstance(primary, str) else primary
    for name, metric in named.items():
        if metric == DISTANCE and name != "retention":
            yield Fault(
                ("evaluate", "primary", *([name] if name else [])),
                f"{DISTANCE!r} is a distance from the base and measured on retention alone; "
                f"possible for it: {{retention: {DISTANCE}}}",
            )


def _judge(recipe: Recipe) -> Iterator[Fault]:
    judge, metrics = recipe.evaluate.judge, recipe.evaluate.metrics
    place = ("evaluate", "judge")
    if judge is None:
        if WIN_RATE in metrics:
            yield Fault(
                ("evaluate", "metrics", metrics.index(WIN_RATE)),
                f"{WIN_RATE!r} needs evaluate.judge; set it; possible: the url of an "
                "OpenAI-compatible endpoint and the name of a model",
            )
        return
    if WIN_RATE not in metrics:
        yield _no_effect(place, f"evaluate.metrics lacks {WIN_RATE}", "name it there")
    # What is wrong is not repeated: it may be a key, and a recipe is written into the run folder.
    try:
        parts = urlsplit(judge.url)
    except ValueError:  # such as half a pair of brackets
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Fault(
            (*place, "url"),
            "is no http or https address; give one such as http://localhost:8000/v1",
        )
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield Fault(
            (*place, "url"),
            "holds more than host, port and path, which may be a key; name the variable that holds "
            "the key in evaluate.judge.api_key_env",
        )
    elif parts.scheme == "http" and judge.api_key_env is not None and not _is_local(parts.hostname):
        yield Fault(
            (*place, "url"),
            "would carry the key of evaluate.judge.api_key_env unencrypted to another machine; "
            "give an https address, or forward a port of localhost to it, or remove api_key_env",
        )
    for name in ("model", "messages", "stream"):
        if name in judge.parameters:
            yield Fault(
                (*place, "parameters", name),
                "is not for parameters to say: the model is evaluate.judge.model, messages are "
                "lorakit's, and replies come whole. Remove it",
            )
    if judge.api_key_env is not None and not ENVIRONMENT_NAME.fullmatch(judge.api_key_env):
        yield Fault(
            (*place, "api_key_env"),
            "is no name of an environment variable; give the name, such as OPENAI_API_KEY, never "
            "the key itself",
        )


def _is_local(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _not_measured(path: tuple[str | int, ...], metric: str, usable: tuple[str, ...]) -> Fault:
    return Fault(path, f"{metric!r} is not among evaluate.metrics; possible: {', '.join(usable)}")


def _check(recipe: Recipe) -> Iterator[Fault]:
    for index, name in enumerate(recipe.check.silence):
        if name not in finding_names():
            yield _unknown(("check", "silence", index), name, finding_names())


def _output(recipe: Recipe) -> Iterator[Fault]:
    place = ("output", "dir")
    try:
        fill_name(recipe.output.dir, "name")
    except ValueError as error:
        yield Fault(place, f"{recipe.output.dir!r}: {error}; only {{name}} may stand in braces")
    if not recipe.output.dir.strip():
        yield Fault(place, "is empty; give the folder the run goes to")


def fill_name(text: str, name: str) -> str:
    """`text` with `{name}` filled in; `{{` and `}}` stand for braces themselves.

    Raises:
        ValueError: anything else in braces, or a single brace.
    """
    filled = ""
    for literal, field, spec, conversion in Formatter().parse(text):
        if field is not None and (field != "name" or spec or conversion):
            raise ValueError(f"{{{field}}} is not known")
        filled += literal + ("" if field is None else name)
    return filled


def _given(section: Any, name: str) -> bool:
    return name in section.model_fields_set


def _names_in(folder: str) -> tuple[str, ...]:
    """The variants in a folder of the package, one file each, without importing them."""
    return tuple(
        sorted(path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem[0] != "_")
    )


def _not_built(path: tuple[str | int, ...], value: object, possible: tuple[str, ...]) -> Fault:
    return Fault(path, f"{value!r} is not built yet; possible: {', '.join(possible)}")


def _unknown(path: tuple[str | int, ...], value: object, possible: tuple[str, ...]) -> Fault:
    near = difflib.get_close_matches(str(value), possible, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Fault(path, f"{value!r} is not known{hint} Possible: {', '.join(possible)}")


def _no_effect(path: tuple[str | int, ...], because: str, remedy: str) -> Fault:
    message = f"cannot take effect because {because}; remove it, or {remedy}"
    return Fault(path, message, effectless=True)
