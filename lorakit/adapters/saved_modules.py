"""The modules that are trained and saved as a whole."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.module_names import nearest
from lorakit.adapters.patterns import is_below, matches_list
from lorakit.errors import AdapterError


def find_modules_to_save(model: PreTrainedModel, wanted: list[str]) -> dict[str, nn.Module]:
    """Modules that equal an item or end with `"." + item`.

    PEFT takes every name that ends with the bare text ("norm" also takes "input_layernorm"). An
    item for which the two differ would train one thing here and load as another there, so it is
    refused.

    Raises:
        AdapterError: an item matches nothing, or means something else in PEFT; or one module is
            inside of another.
    """
    modules = {name: m for name, m in model.named_modules(remove_duplicate=False) if name}
    found: dict[str, nn.Module] = {}
    for item in wanted:
        meant = {name: m for name, m in modules.items() if matches_list(name, [item])}
        if not meant:
            raise AdapterError(
                f"modules_to_save {item!r} matches no module.{nearest([item], modules)} "
                "Fix adapter.modules_to_save."
            )
        found |= meant
    for item in wanted:
        by_peft = [name for name in modules if name.endswith(item) and name not in found]
        if by_peft:
            meant_name = next(name for name in found if matches_list(name, [item]))
            raise AdapterError(
                f"modules_to_save {item!r} is ambiguous: it names {meant_name}, but PEFT "
                f"would also take {', '.join(by_peft[:3])}. Write the full module name, or name "
                "the others too."
            )
    nested = [name for name in found if is_below(name, found.keys() - {name})]
    if nested:
        raise AdapterError(
            f"modules_to_save names {nested[0]!r} and a module around it. Keep one of the two."
        )
    return found
