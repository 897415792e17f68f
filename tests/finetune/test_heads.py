"""Heads pool the regions that are there, and nothing else; ABMILX by a second way."""

import pytest
import torch
from torch.nn import functional

from parfocal.finetune.heads import HeadKind, RefinedHead, new_head


def drawn_head(kind: HeadKind) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = new_head(kind, 6, 3, generator)
    for name, parameter in head.named_parameters():
        if parameter.abs().sum() == 0 or name == "gain":
            torch.nn.init.normal_(parameter, generator=generator)
    vectors = torch.randn(2, 5, 6, generator=generator)
    present = torch.tensor([[True, True, True, False, False], [True] * 5])
    return head, vectors, present


@pytest.mark.parametrize("kind", ["linear", "attention", "abmilx"])
def test_scores_know_only_the_regions_that_are_there_in_any_order(kind: HeadKind) -> None:
    head, vectors, present = drawn_head(kind)
    scores = head(vectors, present)
    assert scores.shape == (3, 2)
    poisoned = vectors.clone()
    poisoned[0, 3:] = 1e3
    assert torch.allclose(head(poisoned, present), scores, atol=1e-5)
    assert torch.allclose(head(vectors[:1, [2, 0, 1]], present[:1, :3]), scores[:, :1], atol=1e-5)


def test_abmilx_is_what_its_authors_write() -> None:
    head, vectors, present = drawn_head("abmilx")
    assert isinstance(head, RefinedHead)
    scores = head(vectors, present)
    for unit, count in enumerate((3, 5)):
        features = functional.gelu(head.inner(vectors[unit, :count]))
        pooled = []
        for x in features.chunk(4, dim=1):
            logit = head.attention(functional.gelu(head.hidden(x)))[:, 0]
            alike = functional.layer_norm(x, (32,), head.norm.weight, head.norm.bias)
            matrix = torch.softmax(head.query(alike) @ head.key(alike).T / 32**0.5, dim=1)
            refined = torch.softmax(logit + head.gain * matrix @ logit, dim=0)
            pooled.append(refined @ x)
        expected = head.score(head.out(torch.cat(pooled)))
        assert torch.allclose(scores[:, unit], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "attention", "abmilx"])
def test_a_new_head_says_nothing(kind: HeadKind) -> None:
    head = new_head(kind, 6, 3, torch.Generator().manual_seed(1))
    scores = head(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(scores, torch.zeros(3, 2))
