"""The page of a plan: its numbers, what it leaves out, and whose text it escapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lorakit.errors import InputError
from lorakit.report.plan_files import PHASES, PlanFound, methods_of, phases_of
from lorakit.report.plan_page import plan_page, write_plan_page
from tests.report.pages import Element, columns, headline, parse
from tests.report.plans import GIB, MIB, plan_recipe, plan_told
from tests.report.runs import HOSTILE

SOURCE = Path("clinic.yaml")


@cache
def whole() -> Element:
    """The page of a plan that knows everything."""
    return planned()


def planned(**changed: Any) -> Element:
    return parse(plan_page(plan_told(**changed), plan_recipe(), source=SOURCE))


def test_phases_add_up_to_what_the_plan_says() -> None:
    plan = TypeAdapter(PlanFound).validate_python(plan_told())
    phases = phases_of(plan)
    assert {one.name for one in phases} < PHASES.keys()
    assert {one.name: one.total for one in phases} == plan.memory_phases
    assert all(one.complete for one in phases)
    step = phases[1].parts
    # The scales are a part of the weights, and shown apart from them.
    assert step["weights"] + step["quantization_constants"] == plan.memory_bytes["weights"]
    assert step["working"] == 622 * MIB


def test_offloaded_weights_are_not_counted_on_the_device() -> None:
    told = plan_told()
    away, on_its_way = 4 * GIB, told["memory_parts"]["unpacked_weight"]
    here = told["memory_bytes"]["weights"] - away
    told["weights_by_device"] = {"cuda": here, "cpu": away}
    told["memory_phases"] = {
        name: total - away + on_its_way for name, total in told["memory_phases"].items()
    }
    phases = phases_of(TypeAdapter(PlanFound).validate_python(told))
    assert {one.name: one.total for one in phases} == told["memory_phases"]
    assert {one.parts["weights"] for one in phases} == {here}
    assert {one.parts["on_its_way"] for one in phases} == {on_its_way}


def test_methods_add_up() -> None:
    told = plan_told()
    told["methods"]["full"]["total"] = 7
    stacks = methods_of(TypeAdapter(PlanFound).validate_python(told))
    assert [one.name for one in stacks] == ["full", "lora", "qlora"]
    assert stacks[0].total == sum(told["methods"]["full"].values()) - 7


def test_the_plan_s_page_says_what_the_plan_found() -> None:
    tree = whole()
    assert headline(tree) == "▼ Does not fit rtx3060ti: 9.39 GiB needed, 8.00 GiB there."
    numbers = tree.by_id("numbers").text
    for said in ("43,319,296", "0.54 % of 8,073,580,544", "1,875", "6,120,400", "1 h 39 min"):
        assert said in numbers
    memory = tree.by_id("memory")
    rows = columns(memory.all("table")[0])
    assert rows["■ Activations"] == ["\u2013", "2.83 GiB", "\u2013", "\u2013", "\u2013"]
    # Loading, step, optimizer, validation, evaluation (weights, adapter and what answers take).
    assert rows["In all"] == ["6.29 GiB", "9.39 GiB", "6.05 GiB", "6.65 GiB", "8.50 GiB"]
    (svg,) = memory.all("svg")
    assert "rtx3060ti: 8.00 GiB" in svg.text
    assert "full, 16-bit" in tree.by_id("methods").text.lower()
    time = tree.by_id("time").text
    assert "1 h 30 min" in time and "273 PFLOP" in time and "assumed efficiency" in time
    fixes = tree.by_id("fixes").text
    assert "train.gradient_checkpointing: true" in fixes and "\u00d71.24" in fixes
    assert "it fits on rtx3060" in fixes


def test_each_gpu_has_what_is_left_on_it() -> None:
    rows = columns(whole().by_id("gpus").all("table")[0])
    assert rows["rtx3060"] == ["12.00 GiB", "▲ 2.61 GiB"]
    assert "t4" not in rows  # has no bfloat16, which was planned for
    assert "l4, a10" in rows  # of the same size
    big = plan_told()["memory_phases"] | {"training_step": 20 * GIB}
    rows = columns(planned(memory_phases=big).by_id("gpus").all("table")[0])
    assert rows["rtx3060"][1] == "▼ 8.00 GiB too little"


def test_a_gpu_must_hold_what_was_offloaded_too() -> None:
    weights = 5_430 * MIB
    split = {"cuda": weights - 4 * GIB, "cpu": 4 * GIB}
    rows = columns(planned(weights_by_device=split).by_id("gpus").all("table")[0])
    assert rows["rtx3060"] == ["12.00 GiB", "▼ 1.39 GiB too little"]
    # Weights are given four fifths of a GPU, however little else there is.
    large = plan_told()["memory_bytes"] | {"weights": 19 * GIB}
    found = planned(memory_bytes=large, weights_by_device={"cuda": 19 * GIB})
    assert columns(found.by_id("gpus").all("table")[0])["l4, a10"][1].startswith("▼ 1.0")


def test_a_budget_is_named_as_one() -> None:
    gpu = plan_told()["gpu"] | {"is_budget": True}
    tree = planned(gpu=gpu)
    assert headline(tree).startswith("▼ Does not fit the budget on rtx3060ti: 9.39 GiB needed")
    (svg,) = tree.by_id("memory").all("svg")
    assert "budget on rtx3060ti: 8.00 GiB" in svg.text


def test_changes_that_are_needed_together_are_not_said_to_be_enough_alone() -> None:
    fit = plan_told()["fit"]
    one, two = fit["fixes"]
    alone = planned(fit=fit | {"fixes": [one, one]}).by_id("fixes").text
    assert "Each of these alone makes the run fit" in alone
    together = planned(fit=fit | {"fixes": [two]}).by_id("fixes").text
    assert "These changes make the run fit together" in together and "alone" not in together
    assert (
        "This change makes the run fit." in planned(fit=fit | {"fixes": [one]}).by_id("fixes").text
    )


def test_the_page_says_what_was_planned_for() -> None:
    setup = {"device": "cpu", "dtype": "float32", "micro_batch_tokens": 2048}
    setup |= {"recompute": {"full": 1, "none": 3}}
    said = planned(setup=setup).by_id("numbers").text
    assert "this machine's CPU, float32" in said and "full recompute in 1 layer" in said


def test_what_a_cpu_takes_is_not_held_against_gpus() -> None:
    here = {"gpu": None, "fit": None}
    devices = plan_told()["devices"]
    for kind, is_shown in (("cuda", True), ("cpu", False)):
        tree = planned(**here, devices=devices | {"type": kind, "count": 1})
        assert ("GPUs" in [one.text for one in tree.all("a")]) == is_shown
        assert ("Which GPUs" in tree.by_id("main").text) == is_shown


ABSENT = (
    ("memory_phases", "memory_parts", "worst_micro_batch"),
    ("methods", "devices", "layers"),
    ("steps", "tokens", "trained_tokens"),
    ("seconds", "seconds_by_part", "seconds_found", "flops"),
    ("cost", "cost_found"),
    ("gpu",),
    ("fit", "weights_by_device"),
)


@pytest.mark.parametrize("keys", ABSENT, ids="+".join)
def test_a_plan_without_some_keys_has_a_page(keys: tuple[str, ...]) -> None:
    tree = planned(**dict.fromkeys(keys))
    assert "None" not in tree.by_id("main").text
    assert tree.all("svg")


def test_a_plan_of_what_is_known_today_has_a_page() -> None:
    """Neither phases, activations nor time: sums are the least that is needed."""
    unknown = {key for keys in ABSENT for key in keys}
    told = {key: value for key, value in plan_told().items() if key not in unknown}
    told["memory_bytes"] |= {"activations": None, "peak": None}
    tree = parse(plan_page(told, plan_recipe(), source=SOURCE))
    assert headline(tree).startswith("Takes at least ")
    assert "least that is needed" in tree.by_id("memory").text
    assert not [one for one in tree.all("a") if one.text in ("Methods", "Fixes")]
    assert "not known" in tree.by_id("time").text


@pytest.mark.parametrize("fits", [True, False])
def test_the_plan_s_headline_follows_the_fit(fits: bool) -> None:
    fit = plan_told()["fit"] | {"fits": fits, "needed_bytes": GIB}
    assert ("▲ Fits" if fits else "▼ Does not fit") in headline(planned(fit=fit))


def test_text_in_a_plan_stays_text() -> None:
    tree = whole()
    assert len(tree.all("script")) == 1
    assert HOSTILE in tree.by_id("verdict").text  # a note
    assert HOSTILE in tree.by_id("time").text  # the basis of a price
    parts = {f"{HOSTILE} $x$": GIB}
    tree = planned(methods={f"{HOSTILE} $y$": parts})
    assert len(tree.all("script")) == 1
    drawn = tree.by_id("methods").all("svg")[0].text
    assert "$x$" in drawn or "$x$" in tree.by_id("methods").text


def test_no_other_file_is_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "mine.html"
    output.write_text("<p>mine")
    with pytest.raises(InputError, match="--html"):
        write_plan_page(plan_told(), plan_recipe(), source=SOURCE, output=output)
    assert output.read_text() == "<p>mine"


def test_a_gpu_s_context_is_a_part_of_every_phase() -> None:
    told = plan_told()
    told["fit"]["needed_bytes"] += 512 * MIB
    plan = TypeAdapter(PlanFound).validate_python(told)
    phases = phases_of(plan)
    assert plan.memory_phases is not None
    for one in phases:
        assert one.total == plan.memory_phases[one.name] + 512 * MIB
    assert max(one.total for one in phases) == told["fit"]["needed_bytes"]
    assert methods_of(plan)[2].parts["context"] == 512 * MIB


def rolled_out() -> dict[str, Any]:
    """What a plan of a policy gradient after a warm start tells beside."""
    told = plan_told()
    there = told["memory_phases"]["optimizer_step"]
    phases = told["memory_phases"] | {
        "rollout": there + 900 * MIB,
        "warm_start_step": there + 300 * MIB,
        "warm_start_validation": there + 200 * MIB,
    }
    parts = {"policy_at_most": 50.0, "rollouts_at_most": 60.0, "training": 0.0}
    return {
        "memory_phases": phases,
        "rollouts": {"kv_cache": 500 * MIB, "dense_weights": 90 * MIB, "holes": 70 * MIB},
        "evaluation_bytes": {"holes": 40 * MIB},
        "seconds": None,
        "seconds_at_most": 120.0,
        "seconds_by_part": told["seconds_by_part"] | parts,
        "flops": told["flops"] | {"rollouts": 1e16},
        "gpu": None,
        "fit": None,
    }


def test_every_phase_of_a_policy_is_taken_apart() -> None:
    plan = TypeAdapter(PlanFound).validate_python(plan_told(**rolled_out()))
    phases = {one.name: one for one in phases_of(plan)}
    assert phases.keys() == PHASES.keys()
    for name, one in phases.items():
        assert one.total == (plan.memory_phases or {})[name] and "other" not in one.parts
    rollout = phases["rollout"].parts
    assert (rollout["kv_cache"], rollout["answer_weights"]) == (500 * MIB, 90 * MIB)
    assert (rollout["holes"], phases["evaluation"].parts["holes"]) == (70 * MIB, 40 * MIB)
    assert phases["warm_start_step"].parts["whole_pass"] > 300 * MIB


def test_all_of_a_policy_is_told_as_at_most_and_of_completions() -> None:
    recipe = plan_recipe()
    recipe.train.method = "grpo"
    tree = parse(plan_page(plan_told(**rolled_out()), recipe, source=SOURCE))
    assert headline(tree).endswith("and at most 2 min 0 s.")
    numbers, time = tree.by_id("numbers").text, tree.by_id("time").text
    assert "completions" in numbers and "examples" not in numbers
    for told in ("at most 0.5610 USD", "at most 2 min 0 s"):
        assert told in numbers and told in time
    assert numbers.count("at most") == 3  # the tokens too
    assert "at most" not in whole().by_id("numbers").text
