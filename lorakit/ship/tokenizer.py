"""The tokenizer of a run: what serving needs besides weights."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorakit.base.stops import stop_ids_of
from lorakit.data.prepare import Prepared
from lorakit.files import staged_folder, write_atomically
from lorakit.run_folder import RunFolder


def write_tokenizer(
    run: RunFolder,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_set: Prepared,
) -> None:
    """Keep what serving needs besides weights: the template that was trained with, and its stops.

    Models that never stop are those whose trained end-of-turn token the generation config lacks.
    """
    stops = stop_ids_of(model, train_set.stop_ids)
    generation = copy.deepcopy(model.generation_config)
    generation._from_model_config = False  # else transformers derives it anew when loading
    if stops:
        generation.eos_token_id = stops
    serving = copy.deepcopy(tokenizer)
    serving.chat_template = train_set.chat_template
    with staged_folder(run.tokenizer) as folder:
        serving.save_pretrained(folder)
        # Not save_pretrained, which refuses values that published models have (a temperature
        # without sampling): they are not ours to judge.
        (folder / "generation_config.json").write_text(generation.to_json_string())


def copy_tokenizer(run: RunFolder) -> None:
    """Beside the adapter, where users of PEFT look for it: that folder can be used alone.

    Before the adapter, whose config is what makes a run a finished one.
    """
    run.adapter.mkdir(exist_ok=True)
    for path in sorted(run.tokenizer.iterdir()):
        write_atomically(run.adapter / path.name, path.read_bytes())
