"""What the processes of one run tell each other; with one process, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lorakit.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: of this process; rank 0 writes the files.
        world_size: how many there are.
        device: where tensors live that are sent.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def check(self) -> None:
        """Refuse ranks that torch.distributed does not confirm.

        Raises:
            InputError: several processes without a process group, or another rank in it.
        """
        if self.world_size == 1:
            return
        initialised = dist.is_available() and dist.is_initialized()
        actual = (dist.get_rank(), dist.get_world_size()) if initialised else None
        if actual != (self.rank, self.world_size):
            raise InputError(
                f"training was told it is rank {self.rank} of {self.world_size}, torch.distributed "
                f"says {actual}; call torch.distributed.init_process_group first, under torchrun."
            )

    @property
    def sum(self) -> Callable[[torch.Tensor], object] | None:
        """What adds a tensor up over all ranks in place; None for one process."""
        return None if self.world_size == 1 else dist.all_reduce

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank: all get the same answer at the same step."""
        return self.smallest(int(not flag)) == 0

    def smallest(self, number: int) -> int:
        """The smallest of the ranks' numbers."""
        if self.world_size == 1:
            return number
        shared = torch.tensor(number, dtype=torch.int64, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MIN)
        return int(shared.item())

    @contextmanager
    def writer_first(self) -> Iterator[None]:
        """Rank 0 runs the `with` block first, the others when it is done."""
        if self.world_size > 1 and not self.writes:
            dist.barrier()
        yield
        if self.world_size > 1 and self.writes:
            dist.barrier()
