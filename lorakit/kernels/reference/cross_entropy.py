"""Cross-entropy of logits, and its gradient with respect to them.

C rows, V vocabulary.

    nll_i = logsumexp(z_i) - z_i[target_i],  d nll_i / d z_i = softmax(z_i) - onehot(target_i)
"""

from __future__ import annotations

import torch


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    needs_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The negative log-likelihood of each target, and the gradient of their weighted sum; computed
    in float32 (float64 for float64 logits).

    Args:
        logits: (C, V), left as they are.
        targets: int64 (C,), values in [0, V).
        weights: (C,), of each row in the gradient; None: 1.
        needs_grad: False: no gradient is made.

    Returns:
        nll (C,) in float32 or wider, and the gradient (C, V) in the dtype of `logits`, or None.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scores = torch.log_softmax(wide, dim=-1)
    nll = -scores.gather(1, targets[:, None]).squeeze(1)
    if not needs_grad:
        return nll, None
    # A fresh tensor: turned into the gradient in place.
    grad = scores.exp_()
    grad[torch.arange(len(grad), device=grad.device), targets] -= 1
    if weights is not None:
        grad.mul_(weights[:, None])
    return nll, grad.to(logits.dtype)
