"""The rasteriser against rays cast one by one, and what is built on it."""

import numpy as np
import pytest

from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera
from monoskd.synthetic.labels import outline, visible_share
from monoskd.synthetic.meshes import Mesh
from monoskd.synthetic.raster import barycentric, fragments, nearest, project_triangles
from monoskd.synthetic.traffic import SIZES, build, sample_size

WIDTH, HEIGHT = 24, 16
P = np.array([[20.0, 0, 12, 1.2], [0, 20, 8, -0.4], [0, 0, 1, 0.003]])


def cast(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangle and depth at every pixel: origin + t ray = a + x (b - a) + y (c - a), one system each."""
    origin = -np.linalg.solve(P[:, :3], P[:, 3])
    seen, depth = np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), np.inf)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            ray = np.linalg.solve(P[:, :3], [u + 0.5, v + 0.5, 1])
            for index, (a, b, c) in enumerate(corners):
                t, one, two = np.linalg.solve(np.stack([ray, a - b, a - c], 1), a - origin)
                if one >= 0 and two >= 0 and one + two <= 1 and 0.3 < t < depth[v, u]:
                    seen[v, u], depth[v, u] = index, t
    return seen, depth


@pytest.mark.parametrize("seed", range(3))
def test_nearest_triangles_are_those_that_rays_meet_first(seed: int) -> None:
    """Triangles all around, some of them reaching behind the camera."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform([-4, -3, -2], [4, 3, 9], (12, 3, 3))
    projected = project_triangles(P, corners)
    seen = nearest(fragments(projected, width=WIDTH, height=HEIGHT), width=WIDTH, height=HEIGHT)
    expected, depth = cast(corners)
    np.testing.assert_array_equal(seen, expected)
    v, u = np.nonzero(seen >= 0)
    weights, found = barycentric(projected, seen[v, u], np.stack([u, v], -1) + 0.5)
    np.testing.assert_allclose(found, depth[v, u], rtol=1e-9)
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-12)


def wall(left: float, right: float, z: float) -> np.ndarray:
    """Two triangles of an upright rectangle that fills the image's height."""
    a, b, c, d = [left, -9, z], [right, -9, z], [right, 9, z], [left, 9, z]
    return np.array([[a, b, c], [a, c, d]])


def test_visible_share_counts_what_is_in_front() -> None:
    """Object 0 at 10 m, a quarter of it behind object 1 at 5 m, half of it behind a thing without label at 8 m."""
    P_centred = np.array([[10.0, 0, 20, 0], [0, 10, 5, 0], [0, 0, 1, 0]])
    corners = np.concatenate([wall(-8, 8, 10), wall(-4, -2, 5), wall(0, 6.4, 8), wall(500, 501, 10)])
    projected = project_triangles(P_centred, corners)
    found = fragments(projected, width=40, height=10)
    seen = nearest(found, width=40, height=10)
    owner = np.array([0, 0, 1, 1, -1, -1, 2, 2])
    np.testing.assert_allclose(visible_share(found, owner, seen, count=3), [0.25, 1.0, 0.0])


def test_outline_is_cut_where_a_box_passes_the_camera() -> None:
    """A box beside the camera, from z = -2 to 4 m: its outline ends on the near plane, far outside the image."""
    boxes = Boxes3D(np.array([[2.5, 1.0, 1.0]]), np.array([[2.0, 1.0, 6.0]]), np.array([-np.pi / 2]))
    left, top, right, bottom = outline(boxes, Camera(P))[0]
    assert left == pytest.approx((20 * 2.0 + 12 * 4 + 1.2) / 4.003)
    assert right == pytest.approx((20 * 3.0 + 12 * 0.3 + 1.2) / 0.303)
    assert bottom == pytest.approx((20 * 1.0 + 8 * 0.3 - 0.4) / 0.303)
    assert top == pytest.approx((20 * -1.0 + 8 * 0.3 - 0.4) / 0.303)
    behind = Boxes3D(np.array([[0.0, 1.0, -9.0]]), np.array([[2.0, 1.0, 6.0]]), np.array([0.3]))
    np.testing.assert_array_equal(outline(behind, Camera(P)), [[0, 0, 0, 0]])


@pytest.mark.parametrize("name", list(SIZES))
def test_meshes_fill_their_boxes_exactly(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        dimensions = sample_size(rng, name)
        mesh = build(rng, name, dimensions)
        h, w, l = dimensions  # noqa: E741
        np.testing.assert_allclose(mesh.corners.min((0, 1)), [-l / 2, -h, -w / 2], atol=1e-9)
        np.testing.assert_allclose(mesh.corners.max((0, 1)), [l / 2, 0, w / 2], atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-6)
        assert ((mesh.colour >= 0) & (mesh.colour <= 1)).all()


def test_a_placed_mesh_stands_in_the_box_of_its_label() -> None:
    rng = np.random.default_rng(6)
    dimensions, bottom, yaw = np.array([1.5, 1.6, 4.0]), np.array([3.0, 1.7, 12.0]), 0.7
    mesh: Mesh = build(rng, "Car", dimensions).placed(bottom, yaw=yaw)
    corners = Boxes3D(bottom[None], dimensions[None], np.array([yaw])).corners()[0]
    axes = np.stack(
        [corners[0] - corners[3], corners[0] - corners[1], corners[4] - corners[0]]
    )  # length, width, height
    local = (mesh.corners - corners.mean(0)) @ (axes / np.linalg.norm(axes, axis=1, keepdims=True) ** 2).T
    np.testing.assert_allclose(local.min((0, 1)), -0.5, atol=1e-9)
    np.testing.assert_allclose(local.max((0, 1)), 0.5, atol=1e-9)
