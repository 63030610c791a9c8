"""Every knob of lorakit: the pydantic models that a YAML recipe is read into, one file a section.

The sections' names and fields are a contract (docs/architecture.md). Names are the ecosystem's:
PEFT's in `adapter`, transformers' in `train`, with one deliberate change: `batch_size` is the
number of examples per optimizer step, and the engine chooses the micro-batches that fit.
"""
