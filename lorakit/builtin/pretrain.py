"""Pretrain the built-in base: `python -m lorakit.builtin.pretrain --shared-data DIR --output DIR`.

The learning rate warms up, stays, and falls to zero while the corpus turns to its second mixture;
the later phases start lower. The first phase does not depend on its own length or on what follows,
so a run may be stopped and resumed with fewer or more blocks. `--from-model DIR --phase NAME` takes
the weights, tokenizer and log of an earlier published model and trains from that phase on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from lorakit.builtin import blocks, corpus, weights
from lorakit.builtin.run_state import Log, Progress, Settings, read_checkpoint, write_checkpoint
from lorakit.builtin.tokenizer import train_tokenizer

PHASES = ("main", "anneal", "skills", "copying", "ordering")
# The learning rate at the start of a phase that lets it fall to zero, as a share of the peak.
START = {"anneal": 1.0, "skills": 0.4, "copying": 0.4, "ordering": 0.35}
HELD_OUT_PER_PART = 40
HELD_OUT_STEPS = 200


def pretrain(
    shared: Path,
    output: Path,
    settings: Settings,
    *,
    resume: bool = False,
    from_model: Path | None = None,
    phase: str = PHASES[-1],
    shape: dict[str, int] | None = None,
    save_seconds: float = 240.0,
    stop_after_step: int | None = None,
) -> LlamaForCausalLM:
    """Train from random weights, or go on from the last checkpoint.

    Args:
        shared: folder of the public data, see `shared_sources`.
        output: tokenizer, prepared blocks, checkpoint and log go here.
        resume: go on from the checkpoint in `output`.
        from_model: a published model to start from, with its weights, tokenizer and log; its
            optimizer state is not published, so the learning rate warms up again.
        phase: what `from_model` is trained with first; not used without it.
        shape: sizes that differ from the built-in model's, see `weights.config`.
        save_seconds: time between checkpoints.
        stop_after_step: save and stop after this optimizer step.

    Returns:
        The model, with float32 master weights in its parameters.

    Raises:
        CheckpointError: nothing to resume, or a checkpoint of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    start = Progress()
    if from_model is not None and not resume:
        start = adopt(from_model, output, phase)
    tokenizer = prepare_tokenizer(shared, output / "tokenizer", settings)
    model = weights.new_model(weights.config(tokenizer, **(shape or {})), seed=settings.seed)
    if from_model is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(from_model).state_dict())
    dtype = getattr(torch, settings.dtype)
    masters = weights.MasterWeights(model, matrices=settings.matrices, dtype=dtype)
    progress = read_checkpoint(output, masters, settings) if resume else start
    log = Log(output / "log.jsonl", keep_steps=progress.step)
    held_out = held_out_batches(shared, tokenizer, settings)
    saved, began = progress.seconds, time.monotonic() - progress.seconds
    for batch, fraction in remaining_batches(shared, output, tokenizer, settings, progress):
        warmup = (progress.tokens - progress.adopted_tokens + 1) / settings.warmup_tokens
        learning_rate = settings.learning_rate * min(fraction, warmup)
        loss = weights.batch_loss(model, batch)
        loss.backward()
        norm = masters.step(learning_rate)
        progress.count(len(batch.tokens), seconds=time.monotonic() - began)
        record = {"loss": loss.item(), "learning_rate": learning_rate, "grad_norm": norm}
        log.write({**asdict(progress), **record})
        if progress.step % HELD_OUT_STEPS == 0:
            log.write({"step": progress.step, "held_out": held_out_losses(model, held_out)})
        if progress.seconds - saved > save_seconds:
            write_checkpoint(output, masters, settings, progress)
            saved = progress.seconds
        if progress.step == stop_after_step:
            break
    write_checkpoint(output, masters, settings, progress)
    masters.unround()
    log.write({"step": progress.step, "held_out": held_out_losses(model, held_out)})
    return model


def adopt(model: Path, output: Path, phase: str) -> Progress:
    """Begin a run at a phase, with the tokenizer and the log of a published model."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (output / "tokenizer").mkdir(exist_ok=True)
        shutil.copy(model / name, output / "tokenizer" / name)
    lines = (model / "training_log.jsonl").read_text().splitlines()
    last = next(r for r in map(json.loads, reversed(lines)) if "tokens" in r)
    end = json.loads(lines[-1])["step"]
    (output / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Progress(
        phase=phase,
        step=end,
        tokens=last["tokens"],
        adopted_tokens=last["tokens"],
        seconds=last["seconds"],
    )


def prepare_tokenizer(shared: Path, folder: Path, settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, trained first when it is not there."""
    if not (folder / "tokenizer.json").is_file():
        texts = corpus.tokenizer_texts(shared, seed=settings.seed)
        train_tokenizer(texts, vocab_size=settings.vocab_size).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def remaining_batches(
    shared: Path,
    output: Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    progress: Progress,
) -> Iterator[tuple[blocks.Batch, float]]:
    """The batches not yet trained, each with its fraction of the peak learning rate.

    `progress` is moved to the start of each block and phase here; the caller counts its batches.
    """
    num_blocks = {
        "main": settings.main_blocks,
        "anneal": settings.anneal_blocks,
        "skills": settings.skills_blocks,
        "copying": settings.copying_blocks,
        "ordering": settings.ordering_blocks,
    }
    for phase in PHASES[PHASES.index(progress.phase) :]:
        if phase != progress.phase:
            progress.phase, progress.block, progress.batch, progress.phase_tokens = phase, 0, 0, 0
        blocks.prepare_blocks(
            output / "blocks",
            phase,
            shared,
            tokenizer,
            seed=settings.seed,
            num_blocks=num_blocks[phase],
            block_tokens=settings.block_tokens,
        )
        while progress.block < num_blocks[phase]:
            documents = blocks.read_block(output / "blocks", phase, progress.block)
            made = blocks.batches(documents, settings.batch_tokens)
            for batch in made[progress.batch :]:
                share = progress.phase_tokens / (num_blocks[phase] * settings.block_tokens)
                yield batch, 1.0 if phase == "main" else START[phase] * max(0.01, 1.0 - share)
            progress.block, progress.batch = progress.block + 1, 0


def held_out_batches(
    shared: Path, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> dict[str, blocks.Batch]:
    """One batch of never-trained documents for each part of the corpus that has some."""
    documents = corpus.held_out_documents(shared, seed=settings.seed, per_part=HELD_OUT_PER_PART)
    return {
        part: blocks.batches([blocks.encode(d, tokenizer) for d in found], 1 << 40)[0]
        for part, found in documents.items()
        if found
    }


def held_out_losses(model: LlamaForCausalLM, held_out: dict[str, blocks.Batch]) -> dict[str, float]:
    """Mean loss of each part's held-out documents."""
    with torch.no_grad():
        return {
            part: round(weights.batch_loss(model, batch).item(), 4)
            for part, batch in held_out.items()
        }


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared-data", type=Path, required=True, help="folder of the public data")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--main-blocks", type=int, default=Settings.main_blocks)
    parser.add_argument("--anneal-blocks", type=int, default=Settings.anneal_blocks)
    parser.add_argument("--skills-blocks", type=int, default=Settings.skills_blocks)
    parser.add_argument("--copying-blocks", type=int, default=Settings.copying_blocks)
    parser.add_argument("--ordering-blocks", type=int, default=Settings.ordering_blocks)
    parser.add_argument("--from-model", type=Path, help="start with this published model")
    parser.add_argument("--phase", choices=PHASES, default=PHASES[-1], help="with --from-model")
    parser.add_argument("--matrices", choices=("muon", "adamw"), default=Settings.matrices)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=Settings.dtype)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    settings = Settings(
        main_blocks=given.main_blocks,
        anneal_blocks=given.anneal_blocks,
        skills_blocks=given.skills_blocks,
        copying_blocks=given.copying_blocks,
        ordering_blocks=given.ordering_blocks,
        matrices=given.matrices,
        dtype=given.dtype,
    )
    model = pretrain(
        given.shared_data,
        given.output,
        settings,
        resume=given.resume,
        from_model=given.from_model,
        phase=given.phase,
    )
    folder = given.output / "model"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(given.output / "tokenizer").save_pretrained(folder)


if __name__ == "__main__":
    main()
