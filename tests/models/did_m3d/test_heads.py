import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d.heads import RegionalHeads, boxes_at, ray_maps
from monoskd.models.did_m3d.structures import Rois
from monoskd.models.heatmap import at_cells, peaks
from monoskd.structures import Views


def rois_of(count: int) -> Rois:
    return Rois(torch.zeros(count, dtype=torch.int64), torch.full((count, 2), 5), torch.arange(count) % 3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_peaks_are_the_best_local_maxima(seed: int, count: int) -> None:
    heat = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(seed))
    rois = peaks(heat, count=count)
    scores = rois.heat
    for image in range(2):
        array = heat[image].numpy()
        standing = np.where(maximum_filter(array, size=(1, 3, 3), mode="nearest") == array, array, 0)
        mine = rois.image == image
        np.testing.assert_array_equal(scores[mine], np.sort(standing.ravel())[::-1][:count])
        found = mine & (scores > 0)
        column, row = rois.cell[found].T
        np.testing.assert_array_equal(array[rois.label[found], row, column], scores[found])


def test_a_map_smaller_than_the_count_gives_what_it_has() -> None:
    rois = peaks(torch.rand(2, 1, 2, 3), count=50)
    scores = rois.heat
    assert len(scores) == len(rois.label) == 12


def test_values_and_boxes_are_read_at_column_and_row() -> None:
    dense = torch.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    rois = Rois(torch.tensor([1]), torch.tensor([[3, 1]]), torch.tensor([0]))
    assert torch.equal(at_cells(dense, rois), dense[1, :, 1, 3][None])
    box = boxes_at(torch.tensor([[0.5, -0.25]]), torch.tensor([[4.0, 2.0]]), rois)
    assert box.tolist() == [[1.5, -0.25, 5.5, 1.75]]


def test_ray_maps_are_the_rays_of_evenly_spread_pixels() -> None:
    camera = Camera(torch.tensor([[[700.0, 0, 320, 45], [0, 710, 190, 0.2], [0, 0, 1, 0.003]]], dtype=torch.float64))
    corners = torch.tensor([[[100.0, 50.0], [220.0, 350.0]]], dtype=torch.float64)
    u, v = torch.linspace(100, 220, 7, dtype=torch.float64), torch.linspace(50, 350, 7, dtype=torch.float64)
    pixels = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)
    points = camera.back_project(pixels, torch.ones(7, 7, dtype=torch.float64))
    torch.testing.assert_close(ray_maps(corners, camera)[0], points[..., :2].movedim(-1, 0))


def heads_of(
    scale: float, boxes: torch.Tensor, *, shared: torch.Tensor, magnification: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    heads = RegionalHeads(inputs=4, hidden=8, classes=3, initial_depth_m=20.0).eval()
    P = torch.tensor([[[700.0, 0, 320, 0], [0, 700, 190, 0], [0, 0, 1, 0]]])
    letterbox = Letterbox(torch.tensor([scale]), torch.zeros(1, 2), (320, 192))
    views = Views(shared, Camera(P), letterbox)
    return heads(shared, rois=rois_of(len(boxes)), boxes=boxes, views=views, magnification=magnification)


def test_published_visual_depth_follows_the_zoom_alone() -> None:
    boxes, shared = torch.tensor([[10.0, 10, 30, 20]]), torch.zeros(1, 4, 48, 80)
    for scale in (0.5, 1.0, 1.5):
        depth = heads_of(scale, boxes, shared=shared)["visual_depth"]
        torch.testing.assert_close(depth, torch.full((1, 7, 7), 20 * scale), rtol=0.01, atol=0)


def test_visual_depth_starts_as_configured_and_follows_the_magnification() -> None:
    boxes, shared = torch.tensor([[10.0, 10, 30, 20]]), torch.zeros(1, 4, 48, 80)
    for k in (0.4, 1.0, 2.7):
        depth = heads_of(1.0, boxes, shared=shared, magnification=torch.tensor([k]))["visual_depth"]
        torch.testing.assert_close(depth, torch.full((1, 7, 7), 20 * k), rtol=0.01, atol=0)


def test_instance_depth_joins_visual_and_attribute() -> None:
    heads = heads_of(1.0, torch.tensor([[10.0, 10, 30, 20]]), shared=torch.rand(1, 4, 48, 80))
    torch.testing.assert_close(heads["depth"], heads["visual_depth"] + heads["attribute_depth"])
    variance = heads["visual_log_variance"].exp() + heads["attribute_log_variance"].exp()
    torch.testing.assert_close(heads["depth_log_variance"].exp(), variance)


def test_degenerate_boxes_stay_finite() -> None:
    boxes = torch.tensor([[30.0, 20, 10, 10], [5, 5, 5, 5], [-900, -900, -800, -800]])
    heads = heads_of(1.0, boxes, shared=torch.rand(1, 4, 48, 80))
    assert all(head.isfinite().all() for head in heads.values())


def test_no_regions_give_empty_heads() -> None:
    heads = heads_of(1.0, torch.zeros(0, 4), shared=torch.rand(1, 4, 48, 80))
    assert heads["heading"].shape == (0, 24)
    assert heads["depth"].shape == (0, 7, 7)
