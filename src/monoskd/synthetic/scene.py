"""All objects and surfaces of one frame, before it is rendered."""

from dataclasses import dataclass

import numpy as np

from monoskd.synthetic.meshes import Mesh
from monoskd.synthetic.street import Street, Weather, sample_street, sample_weather
from monoskd.synthetic.surroundings import sample_surroundings
from monoskd.synthetic.traffic import Actor, sample_traffic


@dataclass(frozen=True)
class Scene:
    """A street, its light, its road users, and all triangles in the camera frame (camera 0, rectified)."""

    street: Street
    weather: Weather
    actors: list[Actor]
    mesh: Mesh


def sample_scene(seed: int, index: int) -> Scene:
    """The scene of a frame: a function of (seed, index) alone."""
    rng = np.random.default_rng((seed, index))
    street = sample_street(rng)
    weather = sample_weather(rng)
    actors = sample_traffic(rng, street)
    surroundings = sample_surroundings(rng, street)
    return Scene(street, weather, actors, Mesh.join([actor.mesh for actor in actors] + surroundings))
