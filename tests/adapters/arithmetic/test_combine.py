"""Sums and means of adapters, held against PEFT's own changes of the weights in float64."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.adapters.arithmetic.combine import METHODS, combine_adapters
from lorakit.adapters.store import load_adapter
from lorakit.cli import main
from lorakit.errors import AdapterError, InputError
from tests.adapters.arithmetic.made_by_peft import TENSORS, VARIANTS, Variant, base, deltas, make
from tests.tolerances import relative_error

# One rounding of each factor to float32, and PEFT's own sums.
EXACT = 1e-6

Deltas = dict[str, torch.Tensor]
Made = Callable[[str], tuple[Path, Deltas]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Adapters by variant, each made once: its folder, and what PEFT says it changes."""
    root = tmp_path_factory.mktemp("adapters")
    known: dict[str, tuple[Path, Deltas]] = {}

    def get(name: str) -> tuple[Path, Deltas]:
        if name not in known:
            variant = VARIANTS[name]
            folder = make(variant, root / name.replace(" ", "_"), seed=len(known))
            known[name] = (folder, deltas(variant.family, folder))
        return known[name]

    return get


def weighted(parts: list[tuple[float, Deltas]]) -> Deltas:
    total: Deltas = {}
    for weight, found in parts:
        for name, delta in found.items():
            total[name] = total.get(name, torch.zeros_like(delta)) + weight * delta
    return total


def assert_same(found: Deltas, expected: Deltas) -> None:
    assert expected.keys() <= found.keys()
    for name in found:
        if name not in expected:  # lora_bias is for all layers or none
            assert name.endswith(" bias") and not found[name].any()
            continue
        assert relative_error(found[name], expected[name]) <= EXACT, name


def here(family: str, folder: Path) -> Deltas:
    """The changes as lorakit computes them once attached."""
    plain = base(family)
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    adapter = load_adapter(plain, folder)
    return {
        name: module.merges()["weight"].change(torch.zeros(shapes[f"{name}.weight"]).double())
        for name, module in adapter.modules.items()
    }


def pairs() -> list[tuple[str, str]]:
    """Every variant with `plain` and with its neighbour, of one family."""
    names = [name for name in VARIANTS if VARIANTS[name].family == "qwen2"]
    chosen = {("plain", name) for name in names[1:]} | set(itertools.pairwise(names))
    return [*sorted(chosen), ("conv1d", "conv1d"), ("experts", "experts")]


@pytest.mark.parametrize("pair", pairs(), ids=" + ".join)
@pytest.mark.parametrize("method", METHODS)
def test_a_combination_changes_what_its_parts_change_together(
    made: Made, tmp_path: Path, pair: tuple[str, str], method: str
) -> None:
    (one, first), (two, second) = map(made, pair)
    if pair == ("lora_bias", "embedding"):
        with pytest.raises(AdapterError, match=r"lora_bias, and model.embed_tokens, which PEFT"):
            combine_adapters([one, two], tmp_path / "out", method=method)
        return
    weights = [1.0, 1.0] if method == "concatenate" else [0.7, -1.9]
    written = combine_adapters(
        [one, two], tmp_path / "out", weights=weights, method=method, dtype=torch.float32
    )
    scale = sum(weights) if method == "interpolate" else 1.0
    expected = weighted([(weights[0] / scale, first), (weights[1] / scale, second)])
    family = VARIANTS[pair[0]].family
    assert_same(deltas(family, tmp_path / "out"), expected)
    if all(VARIANTS[name].here for name in pair):
        assert_same(here(family, tmp_path / "out"), expected)
    assert written.error < EXACT
    if method != "concatenate":
        assert all(layer.change.rank <= layer.change.most_rank for layer in written.layers.values())


@pytest.mark.parametrize("weight", [2.0, 0.5, -1.5, 0.0])
@pytest.mark.parametrize("name", ["patterns", "rslora with patterns", "lora_bias", "experts"])
def test_one_adapter_is_scaled(made: Made, tmp_path: Path, name: str, weight: float) -> None:
    folder, own = made(name)
    combine_adapters([folder], tmp_path / "out", weights=[weight])
    assert_same(deltas(VARIANTS[name].family, tmp_path / "out"), weighted([(weight, own)]))


def test_scaling_by_a_positive_number_touches_no_factor(made: Made, tmp_path: Path) -> None:
    folder, _ = made("patterns")
    combine_adapters([folder], tmp_path / "out", weights=[0.3])
    before, after = load_file(folder / TENSORS), load_file(tmp_path / "out" / TENSORS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_concatenated_factors_keep_their_bits(made: Made, tmp_path: Path) -> None:
    (one, _), (two, _) = made("plain"), made("another")
    combine_adapters([one, one, two], tmp_path / "out", method="concatenate")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    first, second = (load_file(folder / TENSORS)[name] for folder in (one, two))
    joined = load_file(tmp_path / "out" / TENSORS)[name]
    assert torch.equal(joined, torch.cat([first, first, second]))


def test_an_adapter_minus_itself_is_nothing(made: Made, tmp_path: Path) -> None:
    folder, own = made("plain")
    combine_adapters([folder, folder], tmp_path / "out", weights=[1, -1], rank=2)
    found = deltas("qwen2", tmp_path / "out")
    assert all(float(found[name].norm()) < 1e-12 * float(own[name].norm()) for name in own)


def test_many_random_adapters(made: Made, tmp_path: Path) -> None:
    """A sum of six of all conventions at once, then the sum of two halves of it."""
    names = ["plain", "rslora", "patterns", "regex", "float16", "rslora with patterns"]
    folders, parts = zip(*map(made, names), strict=True)
    weights = [0.3, -2.0, 1.1, 0.01, 5.0, -0.4]
    expected = weighted(list(zip(weights, parts, strict=True)))
    combine_adapters(folders, tmp_path / "all", weights=weights)
    assert_same(deltas("qwen2", tmp_path / "all"), expected)
    for half in (slice(0, 3), slice(3, 6)):
        combine_adapters(folders[half], tmp_path / f"half{half.start}", weights=weights[half])
    combine_adapters([tmp_path / "half0", tmp_path / "half3"], tmp_path / "halves")
    assert_same(deltas("qwen2", tmp_path / "halves"), expected)


FULL = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}
BIASES = {"r": 2, "target_modules": ["q_proj"], "bias": "all"}
ROWS = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 7]}}


@pytest.mark.parametrize("options", [FULL, BIASES, ROWS], ids=["in full", "biases", "token rows"])
def test_values_that_replace_the_base_s_are_averaged_and_never_added(
    tmp_path: Path, options: dict[str, object]
) -> None:
    plain = VARIANTS["plain"]
    folders = [
        make(plain, tmp_path / name, seed=seed, **options) for seed, name in enumerate("abc")
    ]
    combine_adapters(folders, tmp_path / "out", weights=[1, 2, 1], method="interpolate")
    one, two, three, out = (load_file(f / TENSORS) for f in [*folders, tmp_path / "out"])
    compared = 0
    for name in one:
        if ".lora_" not in name:
            mean = (one[name].double() + 2 * two[name].double() + three[name].double()) / 4
            assert relative_error(out[name], mean) <= EXACT, name
            compared += 1
    assert compared > 0
    deltas("qwen2", tmp_path / "out")  # PEFT reads it
    load_adapter(base("qwen2"), tmp_path / "out")
    for method in ("add", "concatenate"):
        with pytest.raises(AdapterError, match=r"stand in for the base's own .*interpolate"):
            combine_adapters(folders, tmp_path / "sum", method=method)
    other = make(plain, tmp_path / "other", r=2)
    with pytest.raises(AdapterError, match=r"only one of .* holds"):
        combine_adapters([folders[0], other], tmp_path / "sum", method="interpolate")
    assert not (tmp_path / "sum").exists()


def test_what_peft_would_get_wrong(made: Made, tmp_path: Path) -> None:
    """PEFT 0.21.2, for docs/adapters/arithmetic.md: "linear" of two adapters, and any of rsLoRA."""
    from tests.adapters.peers import load_in_peft, peft_warnings

    def by_peft(name: str, combination: str) -> tuple[Deltas, Deltas]:
        one = made(name)[0]
        two = make(VARIANTS[name], tmp_path / f"{name} {combination}", seed=50)
        model = load_in_peft(base("qwen2"), one)
        with peft_warnings():
            model.load_adapter(two, "two")
            model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mean", combination)
        found = {
            key.removeprefix("base_model.model."): module.get_delta_weight("mean").detach()
            for key, module in model.named_modules()
            if key.endswith("_proj") and "mean" in getattr(module, "lora_A", {})
        }
        parts = [(0.5, deltas("qwen2", folder)) for folder in (one, two)]
        return found, weighted(parts)

    wrong, right = by_peft("plain", "linear")
    assert min(relative_error(wrong[name], right[name]) for name in right) > 0.3
    wrong, right = by_peft("rslora", "cat")
    for name in right:  # rank 16: times sqrt(16)
        assert relative_error(wrong[name] / 4, right[name]) < 1e-5


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "dora": ({"use_dora": True}, "is a DoRA: .*do not add up.*convert --to lora --base"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changes the base"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights 'olora', which changes the base"),
    "another task": ({"task_type": "SEQ_2_SEQ_LM"}, "task_type is CAUSAL_LM in .* SEQ_2_SEQ_LM in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_add_up_is_refused_by_name(made: Made, tmp_path: Path, name: str) -> None:
    changes, expected = REFUSED[name]
    one = made("plain")[0]
    kept = {key: value for key, value in changes.items() if key != "task_type"}
    two = make(VARIANTS["plain"], tmp_path / "two", **kept)
    if "task_type" in changes:
        edit_config(two, **changes)
    for method in METHODS:
        with pytest.raises(AdapterError, match=f"(?s){expected}"):
            combine_adapters([one, two], tmp_path / "out", method=method)
    assert not (tmp_path / "out").exists()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_bases_are_refused_until_one_is_named(made: Made, tmp_path: Path) -> None:
    one = make(VARIANTS["plain"], tmp_path / "one")
    two = make(VARIANTS["plain"], tmp_path / "two", seed=1)
    edit_config(one, base_model_name_or_path="org/base", revision="main")
    edit_config(two, base_model_name_or_path="copies/base-4bit")
    with pytest.raises(AdapterError, match="name the bases 'copies/base-4bit', 'org/base'"):
        combine_adapters([one, two], tmp_path / "out")
    combine_adapters([one, two], tmp_path / "out", base="org/base")
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == "org/base" and values["revision"] == "main"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nbase_model: org/base\n") and "| 1 | two | LoRA |" in card
    wide = make(VARIANTS["conv1d"], tmp_path / "wide")
    narrow = make(VARIANTS["conv1d"], tmp_path / "narrow", seed=1)
    tensors = load_file(narrow / TENSORS)
    save_file(
        {k: v[..., :16, :].clone() if "lora_B" in k else v for k, v in tensors.items()},
        narrow / TENSORS,
    )
    with pytest.raises(AdapterError, match=r"different shapes, such as .*c_attn"):
        combine_adapters([wide, narrow], tmp_path / "shapes")


OPTIONS: dict[str, tuple[dict[str, object], str]] = {
    "a method of PEFT's": ({"method": "ties"}, "method 'ties' is not possible"),
    "too few weights": ({"weights": [1.0]}, "2 adapters and 1 weights"),
    "a weight that is none": ({"weights": [1.0, float("nan")]}, "are not all possible"),
    "a weight beyond all use": ({"weights": [1.0, 1e308]}, "are not all possible"),
    "no mean": ({"weights": [1.0, -1.0], "method": "interpolate"}, "sum to 0"),
    "a cut concatenation": ({"rank": 2, "method": "concatenate"}, "keeps every adapter's factors"),
    "a weighed concatenation": (
        {"weights": [2.0, 1.0], "method": "concatenate"},
        "keeps every adapter's factors",
    ),
    "rank and error": ({"rank": 2, "max_error": 0.1}, "rank 2 and max_error 0.1 were both given"),
    "rank 0": ({"rank": 0}, "rank 0 is not possible"),
    "an error above one": ({"max_error": 5.0}, "max_error 5 is not possible"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_go_together_are_refused(made: Made, tmp_path: Path, name: str) -> None:
    options, expected = OPTIONS[name]
    folder = made("plain")[0]
    with pytest.raises(InputError, match=expected):
        combine_adapters([folder, folder], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_or_left_half_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("plain")[0]
    combine_adapters([folder], tmp_path / "out")
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        combine_adapters([folder], tmp_path / "out")
    high = made("higher than the layer")[0]
    with pytest.raises(AdapterError, match="would have rank 4104; at most 4096"):
        combine_adapters([high] * 171, tmp_path / "long", method="concatenate")

    def fail(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorakit.adapters.arithmetic.write.card", fail)
    with pytest.raises(OSError, match="No space left"):
        combine_adapters([folder], tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_dtype_that_cannot_hold_the_values_is_refused(made: Made, tmp_path: Path) -> None:
    folder = made("plain")[0]
    with pytest.raises(AdapterError, match=r"which torch.float16 cannot hold"):
        combine_adapters([folder], tmp_path / "out", weights=[-1e7], dtype=torch.float16)
    written = combine_adapters([folder], tmp_path / "half", dtype=torch.bfloat16)
    assert 1e-4 < written.error < 1e-2  # the error tells the rounding, too


def rows_of(folder: Path, indices: object) -> Path:
    return make(VARIANTS["plain"], folder, trainable_token_indices=indices)


@pytest.mark.parametrize(
    ("one", "two"), [([3, 7], [7, 3]), ({"embed_tokens": [3, 7]}, {"embed_tokens": [7, 3]})]
)
def test_rows_of_different_tokens_are_not_mixed(tmp_path: Path, one: object, two: object) -> None:
    """The saved rows have no other name than their place in the list."""
    first, second = rows_of(tmp_path / "one", one), rows_of(tmp_path / "two", two)
    with pytest.raises(AdapterError, match=r"trainable_token_indices is .*\[7, 3\]"):
        combine_adapters([first, second], tmp_path / "out", method="interpolate")
    combine_adapters([first, first], tmp_path / "same", method="interpolate")
    expected, found = (load_file(f / TENSORS) for f in (first, tmp_path / "same"))
    rows = [name for name in expected if "token" in name and "lora" not in name]
    assert rows and all(torch.equal(found[name], expected[name]) for name in rows)


@pytest.mark.parametrize("field", ["base_model_name_or_path", "revision", "task_type"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, [3, "x"], 3])
def test_what_is_no_text_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: object
) -> None:
    other = make(VARIANTS["another"], tmp_path / "other")
    path = other / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    command = ["adapter", "combine", str(made("plain")[0]), str(other)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert f"{field} is {value}"[:40] in capsys.readouterr().err


def test_values_that_no_sum_can_hold_are_refused(made: Made, tmp_path: Path) -> None:
    """An untrusted file may hold anything that is finite."""
    folder = make(VARIANTS["plain"], tmp_path / "huge")
    tensors = load_file(folder / TENSORS)
    save_file({k: v.double().add(1e200) for k, v in tensors.items()}, folder / TENSORS)
    for folders, options in (([folder], {}), ([folder, made("plain")[0]], {"rank": 2})):
        with pytest.raises(AdapterError, match="float64 cannot hold"):
            combine_adapters(folders, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_tokenizers_are_kept_where_all_agree(made: Made, tmp_path: Path) -> None:
    one = make(VARIANTS["plain"], tmp_path / "one")
    two = make(VARIANTS["plain"], tmp_path / "two", seed=1)
    for folder in (one, two):
        (folder / "tokenizer.json").write_text("{}")
    written = combine_adapters([one, two], tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}" and not written.dropped
    (two / "tokenizer.json").write_text("[]")
    written = combine_adapters([one, two], tmp_path / "apart")
    assert written.dropped == ["tokenizer.json"]
    assert not (tmp_path / "apart" / "tokenizer.json").exists()


def random_options(seed: int) -> dict[str, object]:
    """A LoRA config drawn at random: patterns may overlap, targets take every form."""
    draw = random.Random(seed)
    leaves = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    chosen = draw.sample(leaves, draw.randint(1, 5))
    keys = [chosen[0], r"layers\.1\..*", rf"self_attn\.{chosen[0]}", r".*_proj"]
    named = [key for key in keys if key != keys[2] or chosen[0] in leaves[:4]]
    targets: object = draw.choice([chosen, rf".*\.({'|'.join(chosen)})"])
    options: dict[str, object] = {
        "r": draw.randint(1, 9),
        "lora_alpha": draw.randint(1, 40),
        "use_rslora": draw.random() < 0.5,
        "target_modules": targets,
        "rank_pattern": {key: draw.randint(1, 7) for key in draw.sample(named, draw.randint(0, 2))},
        "alpha_pattern": {
            key: draw.randint(1, 30) for key in draw.sample(named, draw.randint(0, 2))
        },
        "init_lora_weights": draw.choice([True, False, "gaussian", "orthogonal"]),
        "lora_dropout": draw.choice([0.0, 0.1]),
    }
    if options["init_lora_weights"] == "orthogonal":  # of even ranks only
        options |= {"r": 4, "rank_pattern": {}}
    return options


@pytest.mark.parametrize("seed", range(12))
def test_pairs_of_random_adapters(tmp_path: Path, seed: int) -> None:
    """PEFT reads a saved config's patterns in sorted order, so the file is what counts."""
    folders = [
        make(Variant(sorted_patterns(random_options(2 * seed + n))), tmp_path / str(n), seed=n)
        for n in range(2)
    ]
    weights = [1.3, -0.6]
    combine_adapters(folders, tmp_path / "sum", weights=weights)
    expected = weighted(
        [(w, deltas("qwen2", folder)) for w, folder in zip(weights, folders, strict=True)]
    )
    assert_same(deltas("qwen2", tmp_path / "sum"), expected)
    assert_same(here("qwen2", tmp_path / "sum"), expected)


def sorted_patterns(options: dict[str, object]) -> dict[str, object]:
    """PEFT saves patterns sorted: made in another order, the adapter could not be loaded."""
    return {
        name: dict(sorted(value.items())) if isinstance(value, dict) else value
        for name, value in options.items()
    }
