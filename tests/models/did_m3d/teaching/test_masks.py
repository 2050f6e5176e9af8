from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from monoskd.distill.losses import ImitationLoss
from monoskd.geometry.heatmap import gaussian_radius
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.did_m3d.teaching.masks import Foreground, centre_squares, foreground_masks


def test_every_cell_that_a_box_touches_is_foreground(targets: DidM3DTargets) -> None:
    fine, coarse = foreground_masks(targets, [(12, 20), (6, 10)])
    expected = torch.zeros(3, 1, 12, 20, dtype=torch.bool)
    expected[0, 0, 1:8, 2:9] = True
    expected[0, 0, 4:8, 11:18] = True
    expected[1, 0, 6:12, 1:5] = True
    assert_close(fine, expected)
    assert coarse[1, 0].nonzero().tolist() == [[row, column] for row in (3, 4, 5) for column in (0, 1, 2)]


def test_the_published_foreground_truncates_both_ends(targets: DidM3DTargets) -> None:
    (mask,) = foreground_masks(targets, [(12, 20)], published=True)
    expected = torch.zeros(3, 1, 12, 20, dtype=torch.bool)
    expected[0, 0, 1:8, 2:9] = True
    expected[0, 0, 4:7, 11:17] = True
    expected[1, 0, 6:11, 1:4] = True
    assert_close(mask, expected)


def test_only_the_published_foreground_loses_small_objects(targets: DidM3DTargets) -> None:
    small = replace(targets, box_2d=torch.tensor([[3.2, 3.2, 3.8, 3.8]] * 3))
    assert foreground_masks(small, [(12, 20)])[0].sum() == 2  # one cell in either image
    assert foreground_masks(small, [(12, 20)], published=True)[0].sum() == 0


def test_a_square_lies_around_each_centre_and_is_cut_at_the_border(targets: DidM3DTargets) -> None:
    expected = torch.zeros(3, 1, 12, 20, dtype=torch.bool)
    for image, (left, top, right, bottom) in zip(targets.image, targets.box_2d, strict=True):
        radius = int(gaussian_radius(right - left, bottom - top))
        column, row = int((left + right) / 2), int((top + bottom) / 2)
        expected[image, 0, max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1] = (
            True
        )
    assert_close(centre_squares(targets), expected)
    assert expected[1].sum() > 1


def test_only_the_published_squares_hold_cell_0_0_for_unsupervised_objects(targets: DidM3DTargets) -> None:
    extra = centre_squares(targets, published=True) ^ centre_squares(targets)
    assert extra.nonzero().tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("published", [False, True])
def test_foreground_hands_each_level_its_mask(targets: DidM3DTargets, published: bool) -> None:
    torch.manual_seed(0)
    student, teacher = ([torch.randn(3, 4, 12, 20), torch.randn(3, 4, 6, 10)] for _ in range(2))
    loss = ImitationLoss("published" if published else "corrected")
    masks = foreground_masks(targets, [(12, 20), (6, 10)], published=published)
    expected = loss(student=student, teacher=teacher, mask=masks)
    assert Foreground(loss, published=published)(student=student, teacher=teacher, targets=targets) == expected
    alone = Foreground(loss, published=published)(student=student[0], teacher=teacher[0], targets=targets)
    assert alone == loss(student=student[0], teacher=teacher[0], mask=masks[0])


def test_no_objects_no_foreground(no_objects: DidM3DTargets) -> None:
    assert not foreground_masks(no_objects, [(12, 20)])[0].any()
    assert not centre_squares(no_objects).any()
