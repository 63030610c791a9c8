"""Recipes: what is read, what is refused and how the refusal reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.errors import RecipeError
from lorakit.recipe import Recipe, dump_recipe, load_recipe, parse_recipe, recipe_schema
from lorakit.recipe.faults import NAMES_ELSEWHERE, known_keys
from lorakit.recipe.optimizer_names import OPTIMS_ELSEWHERE, OPTIMS_NOT_BUILT
from lorakit.recipe.rules.adapter import INITS_NOT_BUILT
from lorakit.recipe.rules.fault import PACKAGE
from lorakit.recipe.rules.recipe import broken_rules
from lorakit.recipe.sections.grpo import GRPOSection
from lorakit.recipe.text import RecipeLoader, dump_text, parse_text
from lorakit.recipe.warm_start import warm_start_recipe
from lorakit.tasks import ScoringOptions
from lorakit.train.advantages import Aggregation, ScaleRewards
from lorakit.train.grpo_settings import GRPOSettings
from lorakit.train.policy_loss import Level, LossType
from lorakit.train.reward_functions import OnFailure
from lorakit.train.rewards import Reward
from lorakit.train.rollout_corrections import Correction

MINIMAL = "base: {model: some/model}\ndata: {train: rows.jsonl}\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("+12", 12),
        ("012", 12),
        ("0o14", 12),
        ("0x0C", 12),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2026-11-24", "2026-11-24"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("no", "no"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("none", "none"),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_1_2(text: str, value: object) -> None:
    read, _ = parse_text(f"key: {text}", "t.yaml")
    assert read == {"key": value}
    assert type(read["key"]) is type(value)


def test_pyyaml_itself_is_left_alone() -> None:
    assert yaml.safe_load("a: on\nb: 1e-4") == {"a": True, "b": "1e-4"}
    assert RecipeLoader.yaml_implicit_resolvers is not yaml.SafeLoader.yaml_implicit_resolvers


@pytest.mark.parametrize("value", ["on", "1e-4", "012", "0x0C", "null", "2026-11-24", "a: b", ""])
def test_dumped_text_reads_back(value: str) -> None:
    assert parse_text(dump_text({"key": value}), "t.yaml")[0] == {"key": value}


def test_a_file_of_the_least_that_must_be_said(tmp_path: Path) -> None:
    recipe = load(tmp_path, MINIMAL)
    assert recipe.adapter.r == 16
    assert recipe.train.learning_rate == 2e-4
    assert recipe.output.dir == "runs/recipe"


def test_overrides(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        MINIMAL + "evaluate: {in_domain: [a.jsonl, b.jsonl]}\n",
        "adapter.r=32",
        "train.learning_rate=1e-4",
        "adapter.target_modules=[q_proj, v_proj]",
        "evaluate.in_domain.1=c.jsonl",
        "data.system=a=b",
    )
    assert recipe.adapter.r == 32
    assert recipe.train.learning_rate == 1e-4
    assert recipe.adapter.target_modules == ["q_proj", "v_proj"]
    assert recipe.evaluate.in_domain == ["a.jsonl", "c.jsonl"]
    assert recipe.data.system == "a=b"


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("adapter.r", "not of the form section.key=value"),
        ("adapter..r=1", "not of the form section.key=value"),
        (
            "adapter.rr=1",
            "--set adapter.rr=1: adapter.rr is not a key of 'adapter'; did you mean r?",
        ),
        ("adaptor.r=1", "did you mean adapter?"),
        ("adapter.r=[1", "not valid YAML"),
        ("adapter.r=x", "--set adapter.r=x: adapter.r should be a valid integer"),
        ("data.train.path=x", "data.train is 'rows.jsonl', which has no keys"),
        ("evaluate.metrics=[bleu]", "'bleu' is not known"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, phrase: str) -> None:
    assert phrase in refusal(tmp_path, MINIMAL, override)


def test_a_place_in_a_list_that_is_not_there(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + "evaluate: {in_domain: [a]}\n", "evaluate.in_domain.3=b")
    assert "is a list of 1, '3' is not in it. Possible: 0 to 0" in message


def test_all_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    text = (
        "base:\n"
        "  model: m\n"
        "  quantisation: nf4\n"
        "adapter:\n"
        "  r: true\n"
        "  learning_rate: 1e-4\n"
        "data:\n"
        "  train: [a.jsonl, {path: b.jsonl, wieght: 2}]\n"
        "train:\n"
        "  lr_scheduler_type: cosin\n"
        "  per_device_train_batch_size: 2\n"
    )
    message = refusal(tmp_path, text, "train.warmup_ratio=2")
    assert message.startswith("/recipe.yaml has 7 faults:")
    for line in (
        ":3: base.quantisation is not a key of 'base'; did you mean quantization?",
        ":5: adapter.r should be a number, not true or false",
        ":6: adapter.learning_rate is not a key of 'adapter'; did you mean train.learning_rate?",
        ":8: data.train.1.wieght is not a key of a data set; did you mean weight?",
        ":10: train.lr_scheduler_type should be 'cosine', 'linear' or 'constant', not 'cosin'",
        ":11: train.per_device_train_batch_size is not a key of 'train'; here it is train.batch",
        "--set train.warmup_ratio=2: train.warmup_ratio should be less than or equal to 1, not 2",
    ):
        assert line in message


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.epochs", "did you mean num_train_epochs?"),
        ("train.train_epochs", "did you mean num_train_epochs?"),
        ("base.epochs", "did you mean train.num_train_epochs?"),
        ("adapter.modules", "did you mean "),  # two have this word
        ("evaluate.tokens", "did you mean max_new_tokens?"),
        ("evaluate.max", "possible: "),  # of too many
    ],
)
def test_a_part_of_a_key_leads_to_it(tmp_path: Path, key: str, meant: str) -> None:
    message = refusal(tmp_path, MINIMAL, f"{key}=3")
    assert f"{key} is not a key of" in message
    assert meant in message


def test_names_of_other_tools_lead_to_keys_that_exist() -> None:
    keys = known_keys(Recipe)
    for name, home in NAMES_ELSEWHERE.items():
        section, key = home.split(" ")[0].rstrip(":").split(".")
        assert key in keys[section], name
        owners = [section for section, names in keys.items() if name in names]
        # Of `train` it is batch_size; of `grpo` it is the unit of another option.
        known = ["grpo"] if name == "gradient_accumulation_steps" else []
        assert owners == known, f"{name} is a key here too"


def policy(**changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of a recipe that rewards."""
    values: dict[str, Any] = {"train": {"method": "grpo"}, "grpo": {"rewards": ["math"]}}
    return values | {name: values.get(name, {}) | given for name, given in changes.items()}


VLLM = {"use_vllm": True}

POLICY_EFFECTLESS: list[tuple[str, dict[str, Any]]] = [
    ("grpo.rewards.0", {"grpo": {"rewards": ["maths"]}}),
    ("grpo.rewards.1", {"grpo": {"rewards": ["math", "rewards.py:"]}}),
    ("grpo.rewards.1", {"grpo": {"rewards": ["math", "a b:c"]}}),
    (
        "grpo.rewards.0.options.regex",
        {"grpo": {"rewards": [{"name": "math", "options": {"regex": "x"}}]}},
    ),
    (
        "grpo.rewards.0.options.regex",
        {"grpo": {"rewards": [{"name": "regex", "options": {"regex": "("}}]}},
    ),
    ("grpo.rewards.1", {"grpo": {"rewards": ["math", {"name": "math", "weight": 2}]}}),
    ("grpo.rewards.0", {"grpo": {"rewards": [{"name": "math", "scorer": "token_f1"}]}}),
    ("grpo.rewards.0", {"grpo": {"rewards": [{"name": "a/b", "scorer": "math"}]}}),
    ("grpo.rewards.0", {"grpo": {"rewards": [{"name": "right", "scorer": "maths"}]}}),
    ("grpo.on_reward_failure", {"grpo": {"on_reward_failure": "skip"}}),
    ("grpo.reward_seconds", {"grpo": {"reward_seconds": 3}}),
    (
        "grpo.importance_sampling_level",
        {"grpo": {"loss_type": "gspo", "importance_sampling_level": "token"}},
    ),
    ("grpo.epsilon", {"grpo": {"loss_type": "cispo", "epsilon_high": 5.0, "epsilon": 0.2}}),
    ("grpo.delta", {"grpo": {"loss_type": "cispo", "epsilon_high": 5.0, "delta": 2.0}}),
    ("grpo.delta", {"grpo": {"delta": 1.1}}),
    ("grpo.use_bias_correction_kl", {"grpo": {"use_bias_correction_kl": True}}),
    (
        "grpo.scale_rewards",
        {"grpo": {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "batch"}},
    ),
    (
        "grpo.rollout_importance_sampling_clip_max",
        {"grpo": {"rollout_importance_sampling_clip_max": 2.0}},
    ),
    (
        "grpo.rollout_importance_sampling_clip_min",
        {
            "grpo": {
                "rollout_importance_sampling_mode": "token_mask",
                "rollout_importance_sampling_clip_min": 9.0,
            }
        },
    ),
    ("grpo.vllm_server_timeout", {"grpo": {"vllm_server_timeout": 3}}),
    ("grpo.temperature", {"grpo": VLLM | {"temperature": 0.8, "top_p": 0.9}}),
    ("grpo.temperature", {"grpo": VLLM | {"temperature": 0.8, "top_k": 9}}),
    ("grpo.temperature", {"grpo": VLLM | {"temperature": 0.8, "min_p": 0.1}}),
    (
        "grpo.rollout_importance_sampling_mode",
        {
            "grpo": VLLM
            | {
                "rollout_importance_sampling_mode": "token_mask",
                "vllm_importance_sampling_correction": False,
            }
        },
    ),
    ("adapter.use_dora", {"grpo": VLLM, "adapter": {"use_dora": True}}),
    ("adapter.kind", {"grpo": VLLM, "adapter": {"kind": "dora"}}),
    ("adapter.bias", {"grpo": VLLM, "adapter": {"bias": "all"}}),
    ("adapter.modules_to_save", {"grpo": VLLM, "adapter": {"modules_to_save": ["lm_head"]}}),
    ("adapter.rank_pattern", {"grpo": VLLM, "adapter": {"rank_pattern": {"q_proj": 2}}}),
    ("adapter.alpha_pattern", {"grpo": VLLM, "adapter": {"alpha_pattern": {"q_proj": 2}}}),
    ("adapter.init_lora_weights", {"grpo": VLLM, "adapter": {"init_lora_weights": "eva"}}),
    (
        "adapter.init_lora_weights",
        {
            "grpo": VLLM,
            "base": {"quantization": "nf4"},
            "adapter": {"init_lora_weights": "loftq"},
        },
    ),
    ("train.batch_size", {"grpo": {"num_generations": 3}}),
    ("train.eval_steps", {"train": {"eval_steps": 5}}),
    ("train.early_stopping_patience", {"train": {"early_stopping_patience": 5}}),
    ("data.trained", {"data": {"trained": "all"}}),
    ("data.validation", {"data": {"validation": "v"}, "evaluate": {"in_domain": "a"}}),
    ("data.validation", {"data": {"validation": 0.1}, "warm_start": {"train": "t"}}),
    (
        "data.hold_out_topics",
        {"data": {"hold_out_topics": {"column": "t"}}, "warm_start": {"train": "t"}},
    ),
    ("warm_start.validation", {"data": {"validation": 0.1}, "warm_start": {"validation": "t"}}),
    ("warm_start.num_train_epochs", {"warm_start": {"num_train_epochs": 1, "max_steps": 2}}),
    ("warm_start.validation.weight", {"warm_start": {"validation": {"path": "v", "weight": 2}}}),
]

SAMPLING_EFFECTLESS: list[tuple[str, dict[str, Any]]] = [
    ("sampling", {"sampling": {}, "metrics": ["loss", "perplexity"]}),
    ("sampling.temperature", {"sampling": {"temperature": 0}}),
    ("sampling.pass_at", {"sampling": {"pass_at": []}}),
    ("sampling.pass_at.1", {"sampling": {"pass_at": [1, 9]}}),
    ("sampling.majority_at.0", {"sampling": {"majority_at": [4], "num_samples": 3}}),
    ("sampling.pass_at.2", {"sampling": {"pass_at": [1, 4, 4]}}),
    ("sampling.scorers.0", {"sampling": {"scorers": ["math"]}}),
    ("sampling.scorers.0", {"sampling": {"scorers": ["loss"]}}),
    ("sampling.scorers", {"sampling": {"scorers": []}}),
    ("sampling.scorers.1", {"metrics": ["math"], "sampling": {"scorers": ["math", "math"]}}),
    ("primary", {"metrics": ["math"], "primary": "math/pass@1"}),
    ("primary", {"metrics": ["math"], "primary": "math/pass@2", "sampling": {}}),
    (
        "primary",
        {
            "metrics": ["math", "tags"],
            "primary": "tags/pass@1",
            "sampling": {"scorers": ["math"]},
        },
    ),
]
EFFECTLESS: list[tuple[str, dict[str, Any]]] = [
    ("base.double_quantization", {"base": {"double_quantization": True}}),
    ("base.block_size", {"base": {"block_size": 128}}),
    ("base.max_device_memory", {"base": {"offload": "none", "max_device_memory": "1GB"}}),
    ("data.group", {"data": {"group": "topic"}}),
    ("data.group", {"data": {"group": "topic", "validation": "v.jsonl"}}),
    ("train.eval_steps", {"train": {"eval_steps": 5}}),
    ("train.early_stopping_patience", {"train": {"early_stopping_patience": 2}}),
    ("train.early_stopping_threshold", {"train": {"early_stopping_threshold": 0.1}}),
    ("evaluate.margin", {"evaluate": {"in_domain": "a", "margin": 0.1}}),
    ("evaluate.max_examples", {"evaluate": {"max_examples": 3}}),
    ("evaluate.primary", {"evaluate": {"primary": "loss"}}),
    ("evaluate.max_generated", {"evaluate": {"max_generated": 3}}),
    ("evaluate.max_generated", {"evaluate": {"in_domain": "a", "metrics": [], "max_generated": 3}}),
    (
        "evaluate.max_new_tokens",
        {"evaluate": {"in_domain": "a", "metrics": ["loss"], "max_new_tokens": 3}},
    ),
    ("evaluate.regex", {"evaluate": {"in_domain": "a", "regex": "x"}}),
    ("evaluate.regex", {"evaluate": {"in_domain": "a", "metrics": ["regex"], "regex": "("}}),
    ("evaluate.metrics.1", {"evaluate": {"in_domain": "a", "metrics": ["loss", "regex"]}}),
    ("evaluate.json_schema", {"evaluate": {"in_domain": "a", "json_schema": "s.json"}}),
    ("evaluate.metrics.0", {"evaluate": {"in_domain": "a", "metrics": ["json_schema"]}}),
    ("evaluate.metrics.0", {"evaluate": {"in_domain": "a", "metrics": ["token_f2"]}}),
    ("evaluate.primary", {"evaluate": {"in_domain": "a", "primary": "content"}}),
    *[
        (f"evaluate.{key}", {"evaluate": {"in_domain": "a"} | values})
        for key, values in SAMPLING_EFFECTLESS
    ],
    ("evaluate.sampling", {"evaluate": {"sampling": {}, "metrics": ["math"]}}),
    (
        "evaluate.primary.retention",
        {"evaluate": {"in_domain": "a", "primary": {"retention": "loss"}}},
    ),
    (
        "evaluate.primary.indomain",
        {"evaluate": {"in_domain": "a", "primary": {"indomain": "loss"}}},
    ),
    (
        "evaluate.primary.in_domain",
        {"evaluate": {"in_domain": "a", "primary": {"in_domain": "content"}}},
    ),
    ("adapter.r", {"adapter": {"path": "adapter", "r": 8}}),
    ("base.revision", {"base": {"model": "builtin", "revision": "main"}}),
    *[
        (f"base.{name}", {"base": {"quantization": quantization, name: value}})
        for quantization in ("none", "int8", "checkpoint")
        for name, value in (("block_size", 64), ("double_quantization", False))
    ],
    ("grpo.rewards", {"train": {"method": "grpo"}}),
    ("grpo", {"grpo": {"rewards": ["math"]}}),
    ("warm_start", {"warm_start": {"max_steps": 3}}),
    *[(key, policy(**changes)) for key, changes in POLICY_EFFECTLESS],
    ("train.optim_memory", {"train": {"optim_memory": "64MB"}}),
    ("train.optim_memory", {"train": {"optim": "adamw_8bit", "optim_memory": "64MB"}}),
    ("train.loraplus_lr_embedding", {"train": {"loraplus_lr_embedding": 1e-5}}),
    ("train.optim", {"train": {"optim": "adamw_8bits"}}),
    *[("train.optim", {"train": {"optim": name}}) for name in OPTIMS_NOT_BUILT],
    ("adapter.kind", {"adapter": {"kind": "vera"}}),
    ("data.format", {"data": {"format": "alpacca"}}),
    ("evaluate.primary", {"evaluate": {"in_domain": "a", "primary": "rouge"}}),
    ("output.dir", {"output": {"dir": "runs/{nmae}"}}),
    ("output.dir", {"output": {"dir": "runs/{"}}),
    ("output.dir", {"output": {"dir": "runs/{name!r}"}}),
    ("output.dir", {"output": {"dir": "runs/{name:>9}"}}),
    ("train.num_train_epochs", {"train": {"num_train_epochs": 3, "max_steps": 5}}),
    ("data.validation.0.weight", {"data": {"validation": [{"path": "v", "weight": 1}]}}),
    ("evaluate.in_domain.weight", {"evaluate": {"in_domain": {"path": "v", "weight": 2}}}),
    *[
        ("base.device", {"base": {"device": device}})
        for device in ("meta", "mps", "cuda:", "cuda:x", "CPU", "", "xpu")
    ],
    *[
        ("adapter.init_lora_weights", {"adapter": {"init_lora_weights": name}})
        for name in INITS_NOT_BUILT
    ],
    ("adapter.init_lora_weights", {"adapter": {"init_lora_weights": "loftq"}}),
    ("adapter.loftq_config", {"adapter": {"loftq_config": {"loftq_iter": 2}}}),
    ("adapter.use_dora", {"adapter": {"target_parameters": ["down_proj"], "use_dora": True}}),
    ("adapter.lora_dropout", {"adapter": {"target_parameters": ["up_proj"], "lora_dropout": 0.1}}),
    (
        "adapter.eva_config",
        {"adapter": {"init_lora_weights": "pissa", "eva_config": {"rho": 1.5}}},
    ),
    (
        "adapter.loftq_config.loftq_bits",
        {
            "base": {"quantization": "nf4"},
            "adapter": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 8}},
        },
    ),
]


@pytest.mark.parametrize(("key", "changes"), EFFECTLESS)
def test_options_that_cannot_take_effect_are_refused(key: str, changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"base": {"model": "some/model"}, "data": {"train": "rows.jsonl"}}
    parse_recipe(values)
    for section, options in changes.items():
        values[section] = values.get(section, {}) | options
    with pytest.raises(RecipeError, match=rf"recipe: {key} .*(effect|possible|Possible|only)"):
        parse_recipe(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.seed", 2**32),
        ("train.seed", 2**64),
        ("train.max_steps", 10**30),
        ("train.num_train_epochs", 1e30),
        ("train.batch_size", 10**30),
        ("train.micro_batch_tokens", 10**30),
        ("data.max_length", 10**30),
        ("data.train", {"path": "a", "weight": 1e12}),
    ],
)
def test_numbers_beyond_any_use_are_refused(key: str, value: object) -> None:
    section, name = key.split(".")
    values: dict[str, Any] = {"base": {"model": "m"}, "data": {"train": "a"}}
    values[section] = values.get(section, {}) | {name: value}
    with pytest.raises(RecipeError, match=rf"recipe: {key}.* should be less than"):
        parse_recipe(values)


@pytest.mark.parametrize(
    "train", ["", " ", {"path": ""}, ["a", ""], [{"path": "b"}, {"path": " "}]], ids=repr
)
def test_an_empty_path_is_refused(train: object) -> None:
    with pytest.raises(RecipeError, match=r"data\.train.* is empty; give a file"):
        parse_recipe({"base": {"model": "m"}, "data": {"train": train}})


@pytest.mark.parametrize("train", [5, 0.5])
def test_a_number_is_no_data_set(train: object) -> None:
    with pytest.raises(RecipeError, match=rf"data\.train is {train}; give a path, a hub id"):
        parse_recipe({"base": {"model": "m"}, "data": {"train": train}})


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        ("!!float abc", ":3: not valid YAML here: 'abc' is no number"),
        ("!!int abc", ":3: not valid YAML here: 'abc' is no whole number"),
        ("!!int ''", "is no whole number"),
        ("!!bool maybe", ":3: not valid YAML here: 'maybe' is no true or false"),
        ("!!timestamp soon", "could not determine a constructor for the tag"),
        ("!!binary '='", "could not determine a constructor for the tag"),
        ("!!set {a, b}", "could not determine a constructor for the tag"),
        ("!!float [1]", ":3: not valid YAML here"),
    ],
)
def test_a_tag_that_does_not_fit_its_value(tmp_path: Path, value: str, phrase: str) -> None:
    assert phrase in refusal(tmp_path, MINIMAL + f"adapter: {{lora_alpha: {value}}}\n")


def test_overriding_how_long_replaces_how_long(tmp_path: Path) -> None:
    epochs = MINIMAL + "train: {num_train_epochs: 5}\n"
    steps = MINIMAL + "train: {max_steps: 5}\n"
    assert load(tmp_path, epochs, "train.max_steps=2").train.max_steps == 2
    recipe = load(tmp_path, steps, "train.num_train_epochs=2")
    assert (recipe.train.num_train_epochs, recipe.train.max_steps) == (2, None)
    assert load(tmp_path, epochs, "train.max_steps=null").train.num_train_epochs == 5
    both = ("train.max_steps=2", "train.num_train_epochs=2")
    assert "cannot take effect" in refusal(tmp_path, MINIMAL, *both)


@pytest.mark.parametrize(
    ("written", "read"),
    [("runs/{name}", "runs/recipe"), ("{name}/{{x}}-{name}", "recipe/{x}-recipe"), ("a", "a")],
)
def test_braces_in_the_output_folder(tmp_path: Path, written: str, read: str) -> None:
    recipe = load(tmp_path, MINIMAL + f"output: {{dir: '{written}'}}\n")
    assert recipe.output.dir == read
    recipe.output.dir = "as {given} by --output"
    assert load(tmp_path, dump_recipe(recipe)).output.dir == "as {given} by --output"


def test_what_is_said_to_be_missing_is_missing() -> None:
    built = {path.stem for path in (PACKAGE / "adapters" / "inits").glob("*.py")}
    assert not built & set(INITS_NOT_BUILT)
    optims = {path.stem for path in (PACKAGE / "optimizers" / "forms").glob("[!_]*.py")}
    assert optims and not optims & {*OPTIMS_NOT_BUILT, *OPTIMS_ELSEWHERE}
    assert set(OPTIMS_ELSEWHERE.values()) <= optims


def test_every_optimizer_of_transformers_is_known_by_name(tmp_path: Path) -> None:
    from transformers.training_args import OptimizerNames

    for name in sorted({one.value for one in OptimizerNames}):
        text = MINIMAL + f"train: {{optim: {name}}}\n"
        if (PACKAGE / "optimizers" / "forms" / f"{name}.py").is_file():
            assert load(tmp_path, text).train.optim == name
        elif name in OPTIMS_ELSEWHERE:
            message = refusal(tmp_path, text)
            assert f"'{name}' is not built; here it is {OPTIMS_ELSEWHERE[name]}" in message
        else:
            assert f"'{name}' is not built yet; possible: adamw_8bit" in refusal(tmp_path, text)


def test_a_recipe_written_in_full_reads_to_the_same(tmp_path: Path) -> None:
    for changes in (
        {},
        {"base": {"model": "m", "quantization": "nf4", "block_size": 128}},
        {"base": {"model": "m", "offload": "none"}},
        {"adapter": {"init_lora_weights": "pissa_niter_16"}},
        {"adapter": {"init_lora_weights": "eva", "eva_config": {"rho": 1.5}}},
        {
            "base": {"model": "m", "quantization": "nf4"},
            "adapter": {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 5}},
        },
        {"adapter": {"path": "somewhere"}},
        {"data": {"train": [{"path": "a", "weight": 0.5}], "validation": 0.1, "group": "topic"}},
        {"evaluate": {"in_domain": "a", "retention": ["b"], "margin": 0.1}},
        {"train": {"max_steps": 5}},
        {"data": {"train": "a", "validation": [{"path": "b"}, "c"]}},
        {"evaluate": {"retention": {"path": "a", "split": "test"}}},
        {"evaluate": {"retention": "a", "primary": {"retention": "token_f1"}, "max_generated": 5}},
        {
            "evaluate": {
                "in_domain": "a",
                "metrics": ["regex", "json_schema"],
                "regex": "(?i)x",
                "json_schema": "s",
            }
        },
        {
            "data": {"train": "a", "validation": 0.1},
            "evaluate": {"metrics": ["content"], "primary": "content"},
        },
        {
            "evaluate": {
                "in_domain": "a",
                "metrics": ["math", "tags"],
                "primary": "math/majority@4",
                "sampling": {"majority_at": [4], "scorers": ["math"], "top_k": 20},
            },
        },
        policy(),
        policy(grpo={"loss_type": "cispo", "epsilon_high": 5.0}),
        policy(
            grpo={"rewards": [{"name": "r.py:f", "options": {"a": [1]}}], "beta": 0.1},
            warm_start={"max_steps": 3, "train": [{"path": "t", "weight": 0.5}]},
        ),
        policy(
            grpo={
                "rewards": [
                    {"name": "regex", "options": {"regex": "a"}},
                    {"name": "second", "scorer": "regex", "options": {"regex": "b"}},
                    {"name": "short", "scorer": "r.py:f"},
                    {"name": "soft_overlong_punishment", "options": {"soft_punish_cache": 16}},
                ]
            }
        ),
        policy(data={"train": "a", "validation": 0.1}, warm_start={}),
    ):
        recipe = parse_recipe({"base": {"model": "m"}, "data": {"train": "a"}} | changes)
        again = load(tmp_path, dump_recipe(recipe))
        assert again == recipe
        assert dump_recipe(again) == dump_recipe(recipe)
        assert broken_rules(again) == []


def test_the_schema_accepts_recipes_and_refuses_typos(tmp_path: Path) -> None:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    values, _ = parse_text(dump_recipe(load(tmp_path, MINIMAL)), "t.yaml")
    jsonschema.validate(values, schema)
    for validation in (0.1, "v.jsonl", {"path": "v.jsonl"}, ["v.jsonl", {"path": "w.jsonl"}]):
        values["data"]["validation"] = validation
        jsonschema.validate(values, schema)
    values["adapter"]["lora_apha"] = 1
    with pytest.raises(jsonschema.ValidationError, match="lora_apha"):
        jsonschema.validate(values, schema)


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({}, {}),
        (
            {
                "warm_start": {
                    "train": "t",
                    "validation": 0.2,
                    "learning_rate": 1e-3,
                    "save_steps": 50,
                }
            },
            {"train": "t", "validation": 0.2},
        ),
        ({"data": {"validation": "v"}}, {}),
        ({"data": {"validation": 0.1}}, {"validation": 0.1}),
        (
            {
                "evaluate": {
                    "in_domain": "i",
                    "metrics": ["math"],
                    "primary": "math",
                    "variants": ["case"],
                }
            },
            {},
        ),
    ],
)
def test_a_warm_start_is_a_recipe_of_sft(
    tmp_path: Path, changes: dict[str, Any], stage: dict[str, Any]
) -> None:
    """Measured on the same sets, with options of its own and all others as in the recipe."""
    sections = policy(**{"warm_start": {"batch_size": 4}, **changes})
    sections["train"] |= {"save_steps": 1}  # of the policy's slow steps alone
    sections["train"] |= {"seed": 7, "learning_rate": 1e-5, "report_to": ["wandb", "tensorboard"]}
    sections["data"] = {"train": "a"} | sections.get("data", {})
    recipe = parse_recipe({"base": {"model": "m"}, "output": {"dir": "runs/x"}} | sections)
    found = warm_start_recipe(recipe)
    assert found is not None and found.train.method == "sft"
    assert found.output.dir == "runs/x/warm_start"
    assert found.train.seed == 7 and found.train.report_to == ["tensorboard"]
    given = sections["warm_start"]
    assert found.train.learning_rate == given.get("learning_rate", 2e-4)
    assert found.train.batch_size == given.get("batch_size", 8)
    assert found.train.save_steps == given.get("save_steps")
    assert found.data.train == stage.get("train", "a")
    assert found.data.validation == stage.get("validation")
    measured = "v" if recipe.data.validation == "v" else recipe.evaluate.in_domain
    assert found.evaluate.in_domain == measured
    assert found.evaluate.metrics == recipe.evaluate.metrics
    assert load(tmp_path, dump_recipe(found)) == found
    assert warm_start_recipe(found) is None


def test_objectives_of_recipes_are_those_of_the_loop() -> None:
    """Recipes import no torch, so the names stand twice."""
    fields = GRPOSection.model_fields
    for name, there in (
        ("loss_type", LossType),
        ("importance_sampling_level", Level),
        ("scale_rewards", ScaleRewards),
        ("multi_objective_aggregation", Aggregation),
        ("rollout_importance_sampling_mode", Correction),
        ("on_reward_failure", OnFailure),
    ):
        named = fields[name].annotation
        options = [one for part in (named, *get_args(named)) for one in get_args(part)]
        assert {one for one in options if isinstance(one, str)} == set(get_args(there)), name
    settings = GRPOSettings.from_section(GRPOSection(rewards=["math"]), seed=3)
    plain = GRPOSettings(rewards=(Reward("math"),), scoring=ScoringOptions(seed=3))
    assert settings == plain  # defaults too


def test_an_alias_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "aliases" in refusal(tmp_path, "\n".join(levels))
    assert "more than 100 aliases" in refusal(tmp_path, "a: &a x\nb: [" + "*a, " * 101 + "]")
    assert "refers to the value it stands in" in refusal(tmp_path, "a: &a [*a]")


def test_merge_keys_work(tmp_path: Path) -> None:
    text = "base: &b {model: m}\ndata: {train: [{<<: &s {path: a.jsonl}, weight: 2}]}\n"
    assert load(tmp_path, text).data.train[0].path == "a.jsonl"


FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = "base: model: m data: train: r: 1 &a *a << [ ] { } !! - ' | > # %YAML --- ... null 1e400"
SNIPPETS = st.sampled_from([*WORDS.split(), ": ", "? ", "  ", "\n", "\t", "\ufeff"])


@FUZZ
@given(st.binary(max_size=200) | st.lists(SNIPPETS, max_size=30).map("".join).map(str.encode))
def test_any_file_gives_a_recipe_or_a_recipe_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    try:
        load_recipe(path)
    except RecipeError as error:
        assert str(path) in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@FUZZ
@given(data=st.data())
def test_any_value_anywhere_gives_a_recipe_or_a_recipe_error(data: st.DataObject) -> None:
    values: dict[str, Any] = {"base": {"model": "m"}, "data": {"train": "a"}}
    keys = known_keys(Recipe)
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from(keys[""]))
        key = data.draw(st.sampled_from(keys[section]))
        values.setdefault(section, {})[key] = data.draw(JSON)
    try:
        recipe = parse_recipe(values)
    except RecipeError:
        return
    assert parse_text(dump_recipe(recipe), "dumped")[0]["base"]["model"] == recipe.base.model


def test_what_a_server_samples_is_corrected_unless_that_is_turned_off(tmp_path: Path) -> None:
    least = {"base": {"model": "some/model"}, "data": {"train": "rows.jsonl"}}

    def mode(**grpo: Any) -> str | None:
        recipe = parse_recipe(least | policy(grpo=grpo))
        section, again = recipe.grpo, load(tmp_path, dump_recipe(recipe)).grpo
        assert again.importance_sampling_mode == section.importance_sampling_mode
        settings = GRPOSettings.from_section(section, seed=0)
        assert settings.rollout_importance_sampling_mode == section.importance_sampling_mode
        return section.importance_sampling_mode

    assert mode() is None
    assert mode(use_vllm=True) == "sequence_mask"
    assert mode(use_vllm=True, rollout_importance_sampling_mode="token_mask") == "token_mask"
    assert mode(use_vllm=True, rollout_importance_sampling_clip_max=2.0) == "sequence_mask"
    assert mode(use_vllm=True, vllm_importance_sampling_correction=False) is None


@pytest.mark.parametrize(
    "given",
    [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 7}, {"min_p": 0.1}, {"stop_strings": ["x"]}],
)
def test_completions_are_drawn_as_the_recipe_says(tmp_path: Path, given: dict[str, Any]) -> None:
    least = {"base": {"model": "some/model"}, "data": {"train": "rows.jsonl"}}

    def drawn(**grpo: Any) -> dict[str, Any]:
        recipe = load(tmp_path, dump_recipe(parse_recipe(least | policy(grpo=grpo))))
        sampling = GRPOSettings.from_section(recipe.grpo, seed=0).sampling(())
        return dataclasses.asdict(sampling)

    wanted = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    assert drawn(**given) == drawn() | wanted != drawn()


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), "much"])
def test_min_p_is_a_share(value: Any) -> None:
    least = {"base": {"model": "some/model"}, "data": {"train": "rows.jsonl"}}
    with pytest.raises(RecipeError, match=r"grpo\.min_p should be"):
        parse_recipe(least | policy(grpo={"min_p": value}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vllm_server_base_url": "localhost:8000"}, "is no http or https address"),
        ({"vllm_server_base_url": "http://me:secret@host"}, "holds more than host"),
        (
            {"vllm_server_base_url": "http://far", "vllm_api_key_env": "KEY"},
            "unencrypted to another machine",
        ),
        ({"vllm_api_key_env": "sk-secret"}, "is no name of an environment variable"),
    ],
)
def test_addresses_of_a_server_hold_no_key(given: dict[str, Any], said: str) -> None:
    least = {"base": {"model": "some/model"}, "data": {"train": "rows.jsonl"}}
    with pytest.raises(RecipeError, match=said) as found:
        parse_recipe(least | policy(grpo=VLLM | given))
    assert "secret" not in str(found.value)
