"""The method's loss."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that counts less where the network is already right: (1 − p)^γ · CE, with p = exp(−CE).

    The gradient flows through both factors (Lin et al. 2017, without class weights).

    Args:
        logits: float [N, 2].
        labels: int64 [N], 0 real, 1 fake.
        gamma: 0 gives cross-entropy.

    Returns:
        float [N].
    """
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy
