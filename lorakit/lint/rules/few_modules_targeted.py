"""Only attention projections are targeted."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit.data.contract import Finding
from lorakit.lint.facts import Facts

ID = "few-modules-targeted"
SEVERITIES = ("warning", "note")
TITLE = "Only attention projections are targeted"
REASON = (
    "Adapting all linear layers beats adapting q and v alone, at the same number of "
    "parameters too: most of what a layer knows is in its MLP. Attention alone (q, k, v, o) "
    "is in between."
)
SOURCE = (
    "QLoRA (arXiv 2305.14314), section 4: all layers are needed to match full fine-tuning; "
    "LoRA Without Regret (2025)"
)
EXAMPLE = "adapter: {target_modules: [q_proj, v_proj]}"
MEND = "Set adapter.target_modules: all-linear, with a lower r if memory is short."

QUERY_VALUE = frozenset(
    (  # noqa: SIM905
        "q_proj v_proj q v query value wq wv query_key_value q_lin v_lin"
    ).split()
)
ATTENTION = QUERY_VALUE | frozenset(
    (  # noqa: SIM905
        "k_proj o_proj k o key wk wo out_proj c_attn qkv_proj dense attn.c_proj k_lin out_lin"
    ).split()
)


def find(facts: Facts) -> Iterator[Finding]:
    adapter = facts.recipe.adapter
    targets = adapter.target_modules
    if adapter.path is not None or isinstance(targets, str) or adapter.target_parameters:
        return
    names = {target if target in ATTENTION else target.rpartition(".")[2] for target in targets}
    if names and names <= QUERY_VALUE:
        severity, what = "warning", "only " + " and ".join(sorted(names))
    elif names and names <= ATTENTION:
        severity, what = "note", "only the attention projections"
    else:
        return
    message = (
        f"{what} are adapted: all linear layers learn more for the same number of parameters; set "
        "adapter.target_modules: all-linear"
    )
    yield Finding(ID, severity, message, "adapter.target_modules")  # type: ignore[arg-type]
