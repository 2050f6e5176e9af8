"""The importer on the page is one: it runs, and its boxes are where they should be."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from monoskd.importers import nuscenes
from monoskd.kitti.doctor import examine
from monoskd.kitti.io import read_objects
from monoskd.kitti.layout import KittiLayout

PAGE = (Path(__file__).parents[2] / "docs" / "import.md").read_text()


def test_the_importer_of_the_page_imports(tmp_path: Path, capsys) -> None:
    source = tmp_path / "mine"
    for scene, grey in (("one", 40), ("two", 200)):
        (source / scene).mkdir(parents=True)
        Image.new("RGB", (1280, 720), (grey, grey, grey)).save(source / scene / "000.jpg")
        car = {"class": "car", "centre": [20, 2, -0.6], "size": [1.5, 1.7, 4], "yaw": 0.1}
        behind, tree = {**car, "centre": [-20, 2, -0.6]}, {**car, "class": "tree"}
        (source / scene / "000.json").write_text(json.dumps([car, behind, tree] if scene == "one" else [car]))
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert 35 <= len(code[0].splitlines()) <= 50
    exec("\n".join(code), {"source": source, "out": tmp_path / "out", "__name__": "page"})
    assert "2 frames (val 1, train 1); objects: Car 2\nleft out: objects of tree 1" in capsys.readouterr().out
    car = read_objects(KittiLayout(tmp_path / "out").label("000000"))
    np.testing.assert_allclose(car.bottom, [[-2, 0.6 + 0.75 - 0.1, 20 - 0.3]], atol=1e-4)
    np.testing.assert_allclose(car.yaw, [-np.pi / 2 - 0.1], atol=1e-4)
    assert examine(tmp_path / "out").ok


def test_the_page_names_what_the_class_map_leaves_out() -> None:
    for category, kitti_class in nuscenes.CLASSES.items():
        if kitti_class is not None:
            assert category.split(".")[1].split("/")[0].replace("_", " ") in PAGE or category.endswith("*")
