"""What is drawn changes no more than footage does, and is left alone where it does not."""

from __future__ import annotations

import torch

from gamegen.models.change_limit import limit_change


def test_usual_changes_stay_and_implausible_pictures_are_taken_back():
    torch.manual_seed(0)
    given, confidence = torch.randn(3, 4, 6, 10), torch.full((3, 1, 6, 10), 0.5)
    change = torch.randn(3, 4, 6, 10)
    usual, wild, wilder = 0.1 * change[0], 4 * change[1], 8 * change[1]
    shown = limit_change(given + torch.stack([usual, wild, wilder]), given, confidence)
    torch.testing.assert_close(shown[0], given[0] + usual)
    left, less = ((shown[i] - given[i]).norm() for i in (1, 2))
    # Twice the change is four times the outlier's loss.
    torch.testing.assert_close(2 * less, left)
    assert left < wild.norm() / 10
    alone = limit_change(given[1:2] + wild[None], given[1:2], confidence[1:2])
    assert torch.equal(alone[0], shown[1])


def test_one_place_may_change_all_it_likes():
    given, confidence = torch.zeros(1, 4, 12, 20), torch.full((1, 1, 12, 20), 1.0)
    drawn = given.clone()
    drawn[0, :, 3, 4] = 6.0
    assert torch.equal(limit_change(drawn, given, confidence), drawn)


def test_less_sure_places_may_change_more():
    given, drawn = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 1.5)
    sure, unsure = (limit_change(drawn, given, torch.full((1, 1, 2, 2), c)) for c in (1.0, -1.0))
    assert torch.equal(unsure, drawn) and (sure < 0.2).all()
