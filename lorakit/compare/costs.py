"""What calls and set-up cost: this machine's time, or a hosted model's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lorakit.compare.measure import Measured
from lorakit.compare.prompts import Way
from lorakit.compare.table import CostBasis, SetUp
from lorakit.errors import InputError, RunError
from lorakit.plan.prices import Prices

MACHINE_SECONDS = "machine-seconds"


class Costs:
    """Reckons in one unit: the prices' currency, or this machine's seconds where it has no price.

    Args:
        machine: see `machine_of` in `plan/machines.py`.
        prices: the table.
        api: a hosted model in it, whose tokens are paid instead of the machine's time; the set-up
            is this machine's work even so.

    Raises:
        InputError: the table has no such model, or has one but no price for this machine.
    """

    def __init__(self, machine: str, prices: Prices, api: str | None) -> None:
        self._prices, self._machine = prices, machine
        self._api = None if api is None else prices.api_price(api)
        hour = prices.of_machine(machine, 3600.0)
        if hour is None and self._api is not None:
            raise InputError(
                f"compare.api {api!r} has a price, but this machine ({machine}), which trains and "
                f"indexes, has none in {prices.source}. Add it there."
            )
        self._is_priced = hour is not None
        setup = f"{machine}: {hour.basis}" if hour is not None else f"seconds of this {machine}"
        call = setup
        if self._api is not None:
            call = (
                f"{api}: {self._api.input:g} and {self._api.output:g} {prices.currency} per "
                f"million input and output tokens ({self._api.date})"
            )
        self.basis = CostBasis(prices.currency if self._is_priced else MACHINE_SECONDS, call, setup)

    def of_seconds(self, seconds: float) -> float:
        """What this machine's time costs."""
        cost = self._prices.of_machine(self._machine, seconds)
        return seconds if cost is None else cost.amount

    def per_call(self, measured: Measured) -> float:
        """What a call costs, when calls come together as the questions did."""
        if self._api is not None:
            return self._api.of_call(
                float(measured.prompt_tokens.mean()), float(measured.answer_tokens.mean())
            )
        return self.of_seconds(measured.seconds / len(measured.answers))

    def setup(self, way: Way, seconds: Mapping[str, float]) -> SetUp:
        """What a way takes before its first call.

        Args:
            seconds: of `training`, of `indexing documents` and of `indexing examples`.
        """
        wanted = {
            "training": way.is_tuned,
            "indexing documents": way.has_documents,
            "indexing examples": way.has_examples,
        }
        taken = {what: seconds[what] for what, is_wanted in wanted.items() if is_wanted}
        return SetUp(taken, self.of_seconds(sum(taken.values())))


def training_seconds(metrics: Path) -> float:
    """How long a run trained: its optimizer steps, validation aside.

    Raises:
        RunError: metrics.jsonl is not there or does not say.
    """
    try:
        last = metrics.read_text("utf-8").splitlines()[-1]
        return float(json.loads(last)["seconds"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise RunError(
            f"{metrics} does not say how long the run trained ({error}). Restore the file as "
            "`lorakit train` wrote it, or train again."
        ) from error
