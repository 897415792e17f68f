"""Back-propagation through many tiles in the memory of a few: gradients at the embeddings first, then the tiles again.

All tiles are embedded without a graph. The loss, a function of the embeddings, gives the gradient at each of them. Then
the tiles go through the encoder once more, a chunk at a time and with a graph, and each chunk is given its gradients.
The sum over chunks is the gradient of the loss: the chain rule, in another order (Gao et al. 2021, arXiv 2101.06983).
It holds where a tile's embedding is the same both times and does not depend on other tiles, as with batch norm and
dropout in evaluation mode.
"""

from collections.abc import Callable, Iterable
from itertools import chain, islice

import torch
from jaxtyping import Float
from torch import Tensor


def cached_backward(
    encode: Callable[[Tensor], Float[Tensor, "_tile dim"]],
    read: Callable[[], Iterable[Tensor]],
    loss_of: Callable[[Float[Tensor, "tile dim"]], Float[Tensor, ""]],
    *,
    trains_tiles: bool = True,
) -> Float[Tensor, ""]:
    """Add the gradients of a loss to everything that it depends on; memory holds the graph of one chunk at a time.

    Args:
        encode: from a chunk of tiles to their embeddings.
        read: gives the chunks, the same ones in the same order every time; it is called twice, or once where all tiles
            are one chunk.
        loss_of: from the embeddings of all tiles, in order, to the loss.
        trains_tiles: whether `encode` has anything that is trained; else the tiles are read once.

    Returns:
        The loss, without a graph.
    """
    chunks = iter(read())
    ahead = list(islice(chunks, 2))
    if len(ahead) == 1:
        with torch.set_grad_enabled(trains_tiles):
            embedded = encode(ahead[0])
        loss = loss_of(embedded)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    with torch.no_grad():
        rows = [encode(chunk) for chunk in chain(ahead, chunks)]
    del ahead
    found = torch.cat(rows).detach().requires_grad_(trains_tiles)
    loss = loss_of(found)
    loss.backward()  # type: ignore[no-untyped-call]
    if trains_tiles and found.grad is not None:
        gradients = torch.split(found.grad, [len(one) for one in rows])
        for chunk, gradient in zip(read(), gradients, strict=True):
            again = encode(chunk)
            again.backward(gradient.to(again.dtype))  # type: ignore[no-untyped-call]
    return loss.detach()
