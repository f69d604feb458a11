"""Several processes on one job, started by torchrun: what each knows alone, added up or put in a row."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, each with its own part of the data.

    Attributes:
        rank: of this process, in 0..count - 1.
        count: of all processes; 1 stands for a process of its own, which talks to nobody.
    """

    rank: int = 0
    count: int = 1

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks, the same bits on each; the tensor itself may be overwritten."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows [n, ...] of all ranks in the order of the ranks; n may differ between them."""
        if self.count == 1:
            return tensor
        own_length = torch.zeros(self.count, dtype=torch.int64, device=tensor.device)
        own_length[self.rank] = len(tensor)
        lengths: list[int] = self.total(own_length).tolist()
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def first(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor of rank 0, which may overwrite the own one of the same shape."""
        if self.count > 1:
            distributed.broadcast(tensor, 0)
        return tensor

    def shares(self, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the ranks before this one have of each count [m], together, and what all have."""
        if self.count == 1:
            return torch.zeros_like(own), own
        of_each = self.gathered(own[None])
        return of_each[: self.rank].sum(0), of_each.sum(0)

    @property
    def leads(self) -> bool:
        """Return whether this is rank 0, which alone prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Ranks()


def join_ranks(*, gpu: bool = False) -> Ranks:
    """Return the processes that torchrun started together with this one; `ALONE` without torchrun.

    accelerate opens the process group. What lies on the CPU travels by gloo, and what lies on a GPU by nccl. Ranks may
    wait for each other for a day: one may have much longer to extract than another, and torchrun ends all when one has
    died.

    Args:
        gpu: whether each process has a GPU of its own, by its number on the machine, for tensors that travel, too; it
            is then the current one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState  # takes a while to import, and few need it

    backend = {"backend": "cpu:gloo,cuda:nccl"} if gpu else {}
    state = PartialState(cpu=not gpu, timeout=timedelta(days=1), **backend)
    atexit.register(state.destroy_process_group)  # else its threads may abort the process as it ends
    return Ranks(state.process_index, state.num_processes)
