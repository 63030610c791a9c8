"""Write docs/families.md: every model family the law tests run over, and how much of it is adapted.

python scripts/family_table.py            # rewrites the file
python scripts/family_table.py --check    # exit 1 when it is not current
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lorakit.adapters.attach import attach_adapter  # noqa: E402
from lorakit.base.empty import empty_model  # noqa: E402
from lorakit.base.families import family  # noqa: E402
from lorakit.base.frozen_experts import expert_layouts  # noqa: E402
from lorakit.base.frozen_linear import is_linear  # noqa: E402
from lorakit.recipe import LoraConfig  # noqa: E402
from tests import families  # noqa: E402

OUTPUT = ROOT / "docs" / "families.md"
HEAD = """# Model families

Every family below is built as a tiny random model by the tests, which show for each: attaching
changes nothing, every adapter tensor gets a gradient, merged equals adapter, saved equals loaded,
PEFT reads the adapter with equal logits (`tests/adapters/test_families.py`), packed equals unpacked
or is refused (`tests/base/test_families.py`). Another causal language model of transformers that is
not refused by name (`lorakit/base/families.py`) loads too, without that promise.

"Adapted" is the share of the linear weights (experts included, output head not) that `all-linear`
adapts in the tiny model: two layers, four experts. "Experts" says of a family that has them how it
holds them: (E, out, in) or (E, in, out), and whether its class is served by transformers' registry
or by name (`docs/targets/experts.md`); they are packed by `base.quantization` like linear layers.
"Left out" names what is not adapted, by layer name: expert routers; layers whose weight a Mamba
kernel reads; and layers whose tensors PEFT 0.21 loses (`lorakit/adapters/families.py`). Written by
`scripts/family_table.py`.

| family | adapted | packs | experts | left out |
|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    text = HEAD + "".join(row(model_type) for model_type in sorted(families.FAMILIES))
    if not parser.parse_args().check:
        OUTPUT.write_text(text)
        return 0
    return int(not OUTPUT.is_file() or OUTPUT.read_text() != text)


def row(model_type: str) -> str:
    """The family's line of the table."""
    model = empty_model(
        families.config(model_type),
        quantization="none",
        double_quantization=True,
        block_size=64,
        dtype=torch.float32,
    )
    total = linear_weights(model)
    adapter = attach_adapter(model, LoraConfig(r=4))
    adapted = sum(math.prod(facts.shape) for facts in adapter.adapted.values())
    packs = "no" if family(model_type).no_packing else "yes"
    left = left_out(adapter.not_adapted)
    share = f"{100 * adapted / total:.0f} %"
    return f"| {model_type} | {share} | {packs} | {experts(model)} | {left} |\n"


def experts(model: PreTrainedModel) -> str:
    """How a model holds its experts; empty when it has none."""
    layouts = list(expert_layouts(model).values())
    if not layouts:
        return ""
    order = "(E, in, out)" if layouts[0].transposed else "(E, out, in)"
    registered = layouts[0].tells and not layouts[0].parameter
    return order if registered else f"{order}, by name"


def linear_weights(model: PreTrainedModel) -> int:
    """Weights of linear layers and experts; tied ones once, the output head not."""
    head = model.get_output_embeddings()
    counted: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            linear = (is_linear(module) or isinstance(module, nn.Linear)) and module is not head
            expert = parameter.dim() == 3 and "expert" in type(module).__name__.lower()
            if parameter.dim() >= 2 and (linear or expert):
                counted[id(parameter)] = parameter.numel()
    return sum(counted.values())


def left_out(reasons: dict[str, str]) -> str:
    """Names of linear layers and experts without an adapter, each once."""
    notes = {"expert router": " (router)"}
    names = {
        name.rpartition(".")[2] + notes.get(reason, "")
        for name, reason in reasons.items()
        if reason != "output head" and not reason.startswith("a parameter")
    }
    return ", ".join(sorted(names))


if __name__ == "__main__":
    sys.exit(main())
