"""Batch norm whose statistics are those of the batches of all processes together."""

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Total(torch.autograd.Function):
    """The sum over all processes; as each has a loss of its own that depends on it, its gradient is such a sum, too."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _Total.apply(gradients[0])


class SyncedBatchNorm(_BatchNorm):
    """Batch norm over all processes, for tensors on the CPU; torch's own takes those on a GPU only.

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015; the sums of all processes instead of those of one.
    """

    def __init__(self, own: _BatchNorm) -> None:
        """Take over parameters and statistics, and what timm's batch norms do afterwards."""
        super().__init__(own.num_features, own.eps, own.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats, self.training = own.affine, own.track_running_stats, own.training
        self.weight, self.bias = own.weight, own.bias
        self.running_mean, self.running_var = own.running_mean, own.running_var
        self.num_batches_tracked = own.num_batches_tracked
        self.drop, self.act = getattr(own, "drop", nn.Identity()), getattr(own, "act", nn.Identity())

    def _check_input_dim(self, inputs: torch.Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map [b, c, ...] to the same shape; processes may have batches of different sizes."""
        if not self.training and self.running_mean is not None:
            return self.act(self.drop(super().forward(inputs)))
        others = [axis for axis in range(inputs.ndim) if axis != 1]
        shape = [1, -1, *(1 for _ in others[1:])]
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))  # no statistics in half precision
        own_count = torch.full((1,), inputs.numel() // inputs.shape[1], dtype=torch.float64)
        sums = _Total.apply(torch.cat([own_count, wide.sum(others, dtype=torch.float64)]))
        count = sums[0].detach()
        mean = sums[1:] / count
        centred = wide - mean.to(wide).view(shape)
        variance = _Total.apply(centred.square().sum(others, dtype=torch.float64)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        outputs = centred * (variance + self.eps).rsqrt().to(wide).view(shape)
        if self.weight is not None and self.bias is not None:
            outputs = torch.addcmul(self.bias.view(shape), outputs, self.weight.view(shape))
        return self.act(self.drop(outputs.to(inputs.dtype)))

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


def synchronise(model: nn.Module) -> None:
    """Let every batch norm inside a model see the batches of all processes; parameters and names stay the same."""
    if any(parameter.is_cuda for parameter in model.parameters()):
        from timm.layers import convert_sync_batchnorm  # takes a while to import

        convert_sync_batchnorm(model)
        return
    for name, part in model.named_children():
        if isinstance(part, _BatchNorm):
            setattr(model, name, part if isinstance(part, SyncedBatchNorm) else SyncedBatchNorm(part))
        else:
            synchronise(part)
