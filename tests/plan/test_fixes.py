"""What makes a run fit is planned again, ranked by cost, and written into the recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorakit.base.placement import OFFLOAD
from lorakit.cli import main
from lorakit.cli.plan import _rewrite
from lorakit.cli.plan_words import show_fixes
from lorakit.errors import InputError, RunError
from lorakit.plan.blueprint import Workbench
from lorakit.plan.changes import Change, possible_changes
from lorakit.plan.duration import NOT_TIMED
from lorakit.plan.fixes import Fixes, find_fixes, fixes_for
from lorakit.plan.peaks import CUDA_CONTEXT
from lorakit.plan.plan import plan
from lorakit.plan.result import Plan
from lorakit.plan.rows import Sets
from lorakit.plan.trial import needed_bytes
from lorakit.recipe import Recipe, edited, load_recipe, parse_recipe
from lorakit.report.plan_page import plan_page
from tests import families
from tests.plan.large_bases import LLAMA_3_1_8B, LLAMA_3_1_70B
from tests.plan.test_duration import examples
from tests.report.pages import columns, parse

COMMENTED = """\
# a recipe of mine
base:
  model: {model}  # local
adapter:
  r: 16
data:
  train: none.jsonl
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 8B model's layers, four of them, from its config alone."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"num_hidden_layers": 4}))
    return folder


def recipe_of(folder: Path, **sections: dict[str, Any]) -> Recipe:
    base = {"model": str(folder)} | sections.pop("base", {})
    return parse_recipe({"base": base, "data": {"train": "no/rows.jsonl"}} | sections)


def changes_of(recipe: Recipe, now: Plan) -> list[Change]:
    """All that are possible, without rows."""
    setup = now.setup
    return possible_changes(
        recipe,
        None,
        setup["device"],
        setup["answers_at_a_time"],
        completions_at_a_time=now.peaks.completions_at_a_time,
    )


def fixes_of(recipe: Recipe, budget: int, sets: Sets | None = None) -> Fixes:
    options: dict[str, Any] = {"gpu": "h100", "budget": budget}
    now = plan(recipe, sets=sets, reads_rows=False, **options)
    found = fixes_for(recipe, now, timing=NOT_TIMED, **options)
    assert found is not None
    return found


# Four fifths of it are for weights, which are 3.9 GB in 16 bits (embeddings and head 2.1 of them).
TOO_LITTLE = 4_600_000_000


def test_what_fits_is_left_alone(large: Path) -> None:
    found = fixes_of(recipe_of(large), 40 << 30)
    assert found.fits
    assert not found.fixes


@pytest.mark.slow
def test_every_fix_fits_when_it_is_planned(large: Path) -> None:
    recipe, budget = recipe_of(large), TOO_LITTLE
    found = fixes_of(recipe, budget)
    assert not found.fits
    assert found.fixes
    for fix in found.fixes:
        again = plan(edited(recipe, fix.changes), gpu="h100", budget=budget, reads_rows=False)
        assert needed_bytes(again) == fix.needed <= budget
        asked = {"cpu"} if fix.changes == {"base.offload": "cpu"} else set()
        assert set(again.memory.by_device) == {"cuda"} | asked
    assert {"base.quantization": "nf4"} in [fix.changes for fix in found.fixes]
    assert found.larger_gpu is not None


@pytest.mark.slow  # some fifteen plans
def test_where_no_change_is_enough_they_are_put_together_and_none_is_idle(large: Path) -> None:
    recipe = recipe_of(large, adapter={"r": 256}, train={"optim": "adamw_torch"})
    found = fixes_of(recipe, TOO_LITTLE)
    (fix,) = found.fixes
    assert len(fix.changes) == len(fix.costs) > 1
    for left_out in fix.changes:
        fewer = {key: value for key, value in fix.changes.items() if key != left_out}
        one = plan(edited(recipe, fewer), gpu="h100", budget=found.limit, reads_rows=False)
        assert needed_bytes(one) > found.limit or "cpu" in one.memory.by_device


@pytest.mark.slow  # a dozen plans of two bases
def test_what_nothing_makes_fit_says_how_near_a_plan_comes(large: Path) -> None:
    """Of embeddings and head 2.1 GB must be on the device, whatever waits elsewhere."""
    recipe = recipe_of(large)
    options: dict[str, Any] = {"gpu": "h100", "budget": 1 << 30}
    now = plan(recipe, reads_rows=False, **options)
    tried: list[tuple[Recipe, Plan]] = []
    bench = Workbench()

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        tried.append((changed, plan(changed, reads_rows=False, bench=bench, **options)))
        return tried[-1][1]

    state = Fixes(needed=now.needed, limit=1 << 30, offloaded=1, fits=False)
    found = find_fixes(recipe, now, state, plan_again)
    assert not found.fixes
    assert found.nearest is not None and found.larger_gpu is not None
    (first, _), *others = tried
    assert (first.base.quantization, first.base.offload) == ("nf4", "auto")
    assert {one.base.offload for one, _ in others} == {"cpu"}
    assert found.nearest == min(needed_bytes(planned) for _, planned in others) > found.limit


@pytest.mark.parametrize("offload", ["cpu", "disk", "auto"])
def test_what_is_offloaded_fits_where_the_recipe_asks_for_it(large: Path, offload: str) -> None:
    """A quarter of the weights is elsewhere whatever is changed; a smaller rank takes less."""
    recipe = recipe_of(large, base={"offload": offload}, adapter={"r": 64})
    now = plan(recipe, gpu="h100", reads_rows=False)
    quarter = now.memory.weights // 4
    elsewhere = {"cuda": 3 * quarter, "disk" if offload == "disk" else "cpu": quarter}
    now = replace(now, gpu=None, memory=replace(now.memory, by_device=elsewhere))

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        peak = now.needed - 64 + changed.adapter.r
        return replace(now, peaks=replace(now.peaks, phases={"training_step": peak}))

    state = Fixes(needed=now.needed, limit=now.needed - 20, offloaded=quarter, fits=False)
    found = find_fixes(recipe, now, state, plan_again)
    rank: list[dict[str, Any]] = [{"adapter.r": 32}]  # 16 and 8 would be enough too
    together = [{"adapter.r": 32, "base.offload": "cpu"}]
    assert [fix.changes for fix in found.fixes] == (together if offload == "auto" else rank)


def test_no_change_goes_further_than_needed(large: Path) -> None:
    """Neither optimizer is enough alone; with nf4 both are, and the milder one is taken."""
    recipe = recipe_of(large, train={"optim": "adamw_torch"})
    now = plan(recipe, gpu="h100", reads_rows=False)
    saved = {"adamw_torch": 0, "adamw_8bit": 100, "paged_adamw_8bit": 150}

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        less = saved[changed.train.optim] + 1000 * (changed.base.quantization == "nf4")
        phases = {"training_step": now.needed - less}
        return replace(now, gpu=None, peaks=replace(now.peaks, phases=phases))

    whole = replace(now, gpu=None)
    state = Fixes(needed=now.needed, limit=now.needed - 1050, offloaded=0, fits=False)
    (fix,) = find_fixes(recipe, whole, state, plan_again).fixes
    assert fix.changes == {"train.optim": "adamw_8bit", "base.quantization": "nf4"}


GRPO: dict[str, Any] = {
    "train": {"method": "grpo"},
    "grpo": {"rewards": ["math"], "max_completion_length": 64},
}


@pytest.mark.parametrize("phase", ["training_step", "evaluation", "loading", "rollout"])
def test_each_key_is_offered_once(large: Path, phase: str) -> None:
    """Every change that is about what is too much is enough alone: of a key that can go further the
    first step is. The others are not planned."""
    recipe = recipe_of(
        large,
        adapter={"r": 256},
        train=GRPO["train"] | {"optim": "adamw_torch"},
        grpo=GRPO["grpo"],
        evaluate={"in_domain": "no/held.jsonl", "metrics": ["loss", "rouge_l"]},
    )
    now = plan(recipe, gpu="h100", reads_rows=False)
    assert phase in now.peaks.phases
    phases = dict.fromkeys(now.peaks.phases, 0) | {phase: now.needed}
    now = replace(now, gpu=None, peaks=replace(now.peaks, phases=phases))
    planned: list[Recipe] = []

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        planned.append(changed)
        return replace(now, peaks=replace(now.peaks, phases={phase: now.needed - 10}))

    state = Fixes(needed=now.needed, limit=now.needed - 10, offloaded=0, fits=False)
    possible = changes_of(recipe, now)
    able = [change for change in possible if change.can_lower(phase)]
    found = find_fixes(recipe, now, state, plan_again, most_offered=99).fixes
    offered = [key for fix in found for key in fix.changes]
    assert offered == list(dict.fromkeys(change.key for change in able))
    assert len(possible) > len(able) >= len(offered) > 0
    first = {change.key: change.value for change in reversed(able)}
    assert [fix.changes for fix in found] == [{key: first[key]} for key in offered]
    assert len(planned) == len(offered)


@pytest.mark.slow  # fifteen plans each
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_what_a_change_cannot_lower_is_as_high_with_it(
    device: str, method: str, tmp_path: Path
) -> None:
    """So that it need not be planned where something else is too much."""
    config = families.config("llama", num_hidden_layers=3, max_position_embeddings=4096)
    config.save_pretrained(tmp_path)
    of_method = {} if method == "sft" else {"grpo": GRPO["grpo"]}
    recipe = recipe_of(
        tmp_path,
        base={"device": "cpu"} if device == "cpu" else {},
        adapter={"r": 64},
        train={"method": method, "gradient_checkpointing": False, "micro_batch_tokens": 8192},
        evaluate={"in_domain": "no/held.jsonl", "metrics": ["loss", "rouge_l"]},
        **of_method,
    )
    options: dict[str, Any] = {
        "gpu": None if device == "cpu" else "h100",
        "bench": Workbench(),
        "reads_rows": False,
        "is_idle": True,
    }
    now = plan(recipe, **options)
    before, lowered = now.peaks.phases, set[str]()
    possible = changes_of(recipe, now)
    for change in possible:
        after = plan(edited(recipe, {change.key: change.value}), **options).peaks.phases
        for phase, size in before.items():
            assert after[phase] >= size or change.can_lower(phase), (change, phase)
            lowered |= {phase} if after[phase] < size else set()
            if change.key == {"rollout": "grpo.max_batch"}.get(phase):
                assert after[phase] < size
    assert {"training_step", "evaluation", "loading"} <= lowered
    assert ("rollout" in lowered) == (method == "grpo")
    assert any(not change.can_lower(phase) for change in possible for phase in before)


def test_weights_that_do_not_fit_are_a_matter_of_the_base_alone(large: Path) -> None:
    """Where some would be offloaded unasked, no other optimizer keeps them here."""
    recipe = recipe_of(large, train={"optim": "adamw_torch"})
    options: dict[str, Any] = {"gpu": "h100", "budget": TOO_LITTLE, "reads_rows": False}
    now = plan(recipe, **options)
    assert now.memory.by_device["cpu"] > 0
    tried: list[Recipe] = []

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        tried.append(changed)
        return plan(changed, **options)

    state = Fixes(needed=needed_bytes(now), limit=TOO_LITTLE, offloaded=1, fits=False)
    found = find_fixes(recipe, now, state, plan_again).fixes
    assert {"base.quantization": "nf4"} in [fix.changes for fix in found]
    assert all(one.train == recipe.train and one.adapter == recipe.adapter for one in tried)


def test_the_page_s_gpus_agree_with_the_plan_s(large: Path) -> None:
    recipe = recipe_of(large)
    options: dict[str, Any] = {"gpu": "h100", "budget": TOO_LITTLE}
    now = plan(recipe, reads_rows=False, **options)
    found = fixes_for(recipe, now, timing=NOT_TIMED, most_offered=1, **options)
    assert found is not None and found.offloaded > 0
    told = now.to_json() | {"fit": found.to_json()}
    rows = columns(parse(plan_page(told, recipe, source=Path("x.yaml"))).by_id("gpus"))
    fitting = [names for names, (_, left) in rows.items() if left.startswith("▲")]
    assert found.larger_gpu in fitting[0].split(", ")


def test_changes_that_do_not_go_together_are_not_put_together(large: Path) -> None:
    """Each works alone, and none is enough; of the two smaller ranks only one goes with nf4."""
    recipe = recipe_of(large, adapter={"r": 64})
    now = plan(recipe, gpu="h100", reads_rows=False)
    state = Fixes(needed=needed_bytes(now), limit=1, offloaded=0, fits=False)
    tried = []

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        tried.append((changed.base.quantization, changed.adapter.r))
        if changed.base.quantization == "nf4" and changed.adapter.r != recipe.adapter.r:
            raise InputError("not together")
        less = now.peaks.peak - 1000 * (changed.base.quantization == "nf4") + changed.adapter.r
        phases = {"training_step": less}
        return replace(now, gpu=None, peaks=replace(now.peaks, phases=phases))

    found = find_fixes(recipe, now, state, plan_again)
    assert ("nf4", 32) in tried
    assert not found.fixes
    assert found.nearest is not None


def test_no_change_is_offered_that_is_there_already(large: Path) -> None:
    rows = Sets(examples(100, longest=2000), np.ones(100))
    plain = {(c.key, str(c.value)) for c in possible_changes(recipe_of(large), rows, "cuda", None)}
    assert ("base.quantization", "nf4") in plain
    assert ("train.gradient_checkpointing", "True") in plain
    packed = recipe_of(
        large,
        base={"quantization": "nf4"},
        train={"gradient_checkpointing": True, "optim": "paged_adamw_8bit"},
        adapter={"target_modules": ["q_proj"], "r": 8},
    )
    keys = {change.key for change in possible_changes(packed, rows, "cuda", None)}
    assert keys == {"data.max_length", "train.micro_batch_tokens", "base.offload"}


@pytest.mark.parametrize(("device", "waits"), [("cuda", "cpu"), ("cpu", "disk")])
def test_offloading_is_the_last_change_unless_the_recipe_asks_for_it(
    large: Path, device: str, waits: str
) -> None:
    for offload in OFFLOAD:
        changes = possible_changes(recipe_of(large, base={"offload": offload}), None, device, None)
        values = {change.key: change.value for change in changes}
        assert values.get("base.offload") == (None if offload in ("cpu", "disk") else waits)
        asked_already = offload in ("cpu", "disk")
        assert (changes[-1].key == "base.offload") != asked_already


def test_offloading_is_not_put_together_with_others_where_these_are_enough(large: Path) -> None:
    """It would be enough alone, as every change is that it stands beside here."""
    recipe = recipe_of(large, train={"optim": "adamw_torch"})
    now = plan(recipe, gpu="h100", reads_rows=False)

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        less = 100 * (changed.train.optim != "adamw_torch")
        less += 100 * (changed.base.quantization == "nf4") + 900 * (changed.base.offload == "cpu")
        phases = {"training_step": now.needed - less}
        return replace(now, gpu=None, peaks=replace(now.peaks, phases=phases))

    for enough, keys in ((50, None), (150, {"train.optim", "base.quantization"})):
        state = Fixes(needed=now.needed, limit=now.needed - enough, offloaded=0, fits=False)
        found = find_fixes(recipe, replace(now, gpu=None), state, plan_again).fixes
        if keys is None:
            assert found[-1].changes == {"base.offload": "cpu"}
            assert len(found) > 1
        else:
            (fix,) = found
            assert set(fix.changes) == keys


def test_shorter_rows_say_how_many_would_be_lost(large: Path) -> None:
    rows = Sets(examples(400, longest=3000), np.ones(400))
    offered = [
        change
        for change in possible_changes(recipe_of(large), rows, "cuda", None)
        if change.key == "data.max_length"
    ]
    assert offered
    for change in offered:
        dropped = (rows.train.lengths > change.value).mean()
        assert f"{dropped:.1%}" in change.costs
        assert change.sets is not None
        assert len(change.sets.train) == round(400 * (1 - dropped))


def test_the_verb_rewrites_the_recipe(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "recipe.yaml", tmp_path / "fitting.yaml"
    path.write_text(COMMENTED.format(model=large))
    before = path.read_text()
    arguments = ["plan", str(path), "--gpu", "h100", "--budget", f"{TOO_LITTLE}B"]
    assert main([*arguments, "--fit", "--output", str(other)]) == 0
    told = capsys.readouterr()
    assert "base.quantization: nf4" in told.err
    assert "does not fit a budget of 4.28 GiB on h100" in told.out
    assert path.read_text() == before
    assert other.read_text() == before.replace("# local\n", "# local\n  quantization: nf4\n")
    assert main([*arguments, "--fit"]) == 0
    assert path.with_name("recipe.yaml.bak").read_text() == before
    assert load_recipe(path).base.quantization == "nf4"
    capsys.readouterr()
    now = path.read_text()
    _rewrite(path, None, Fixes(needed=1, limit=2, offloaded=0, fits=True))
    assert "nothing was changed" in capsys.readouterr().err
    other.unlink()
    _rewrite(path, other, Fixes(needed=1, limit=2, offloaded=0, fits=True))
    assert f"nothing was changed; wrote {other}" in capsys.readouterr().err
    assert other.read_text() == now
    with pytest.raises(RunError, match="nothing was written"):
        _rewrite(path, None, Fixes(needed=2, limit=1, offloaded=0, fits=False))
    assert path.read_text() == now


@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_what_does_not_fit_is_told(
    offload: str, large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(large, base={"offload": offload})
    now = plan(recipe, gpu="h100", budget=TOO_LITTLE, reads_rows=False)
    offloaded = now.memory.by_device.get("cpu", 0)
    assert (offloaded > 0) == (offload == "cpu")
    show_fixes(Fixes(needed=2 << 30, limit=1 << 30, offloaded=offloaded, fits=False), now)
    told = capsys.readouterr().out
    assert "2.00 GiB are needed, 1.00 GiB are there" in told
    assert ("more in host memory (slow)" in told) == (offload == "cpu")


@pytest.mark.parametrize("on_server", [False, True])
def test_rollouts_that_are_too_much_are_written_fewer_at_a_time(
    on_server: bool, tmp_path: Path
) -> None:
    """As many as the recipe asks for do not fit; a server of its own writes them elsewhere."""
    config = families.config("llama", num_hidden_layers=2, max_position_embeddings=1024)
    config.save_pretrained(tmp_path)
    server = {"use_vllm": True} if on_server else {}
    recipe = recipe_of(
        tmp_path,
        train=GRPO["train"] | {"batch_size": 32, "micro_batch_tokens": 512},
        grpo=GRPO["grpo"] | {"max_batch": 256, "num_generations": 8, **server},
        data={"train": "no/rows.jsonl", "max_length": 256},
    )
    options: dict[str, Any] = {"gpu": "h100", "bench": Workbench(), "reads_rows": False}
    now = plan(recipe, **options)
    if on_server:
        assert now.peaks.completions_at_a_time is None
        assert all(change.key != "grpo.max_batch" for change in changes_of(recipe, now))
        return
    values = {c.value for c in changes_of(recipe, now) if c.key == "grpo.max_batch"}
    assert now.peaks.completions_at_a_time == 32 and values == {8, 2, 1}
    rest = max(size for phase, size in now.peaks.phases.items() if phase != "rollout")
    budget = needed_bytes(now) - (now.peaks.phases["rollout"] - rest) // 2
    again = plan(recipe, budget=budget, **options)
    found = fixes_for(recipe, again, gpu="h100", budget=budget, timing=NOT_TIMED)
    assert found is not None and not found.fits
    assert found.fixes[0].changes == {"grpo.max_batch": 8}
    fixed = edited(recipe, found.fixes[0].changes)
    assert needed_bytes(plan(fixed, budget=budget, **options)) == found.fixes[0].needed <= budget


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_too(model_type: str, tmp_path: Path) -> None:
    folder = families.folder(tmp_path, model_type)
    # Nothing is left to the plan, which would do with less by itself.
    train = {"micro_batch_tokens": 2048, "gradient_checkpointing": False}
    recipe = recipe_of(folder, adapter={"r": 64}, train=train)
    now = needed_bytes(plan(recipe, gpu="h100", reads_rows=False))
    found = fixes_of(recipe, CUDA_CONTEXT + int((now - CUDA_CONTEXT) * 0.8))
    assert found.fixes


def test_what_is_offloaded_whatever_is_changed_is_offered_offloaded(tmp_path: Path) -> None:
    """A model of 70B in NF4, beyond 24 GiB whatever is changed: nothing is tried without
    offloading, which is not enough alone."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_70B))
    recipe = recipe_of(tmp_path, base={"quantization": "nf4"})
    options: dict[str, Any] = {"gpu": "rtx4090", "bench": Workbench(), "reads_rows": False}
    now = plan(recipe, **options)
    limit = now.to_json()["gpu"]["memory_bytes"]
    tried = []

    def plan_again(changed: Recipe, sets: Sets | None) -> Plan:
        tried.append(changed)
        return plan(changed, **options)

    state = Fixes(needed=needed_bytes(now), limit=limit, offloaded=1, fits=False)
    (fix,) = find_fixes(recipe, now, state, plan_again).fixes
    assert {one.base.offload for one in tried} == {"cpu"}
    assert len(fix.changes) > 1
    assert fix.changes["base.offload"] == "cpu"
    assert needed_bytes(plan(edited(recipe, fix.changes), **options)) == fix.needed <= limit
