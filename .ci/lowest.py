"""Print the lowest versions that pyproject.toml allows, as pip constraints: `name==bound` for every `name>=bound`."""

import re
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9][0-9A-Za-z.]*)$")


def lowest(pyproject: dict) -> list[str]:
    """A constraint for each requirement of the package, its extras and its tests; all must have a lower bound."""
    project = pyproject["project"]
    extras = [requirement for extra in project.get("optional-dependencies", {}).values() for requirement in extra]
    constraints = []
    for requirement in [*project["dependencies"], *extras, *pyproject["dependency-groups"]["test"]]:
        bound = BOUND.match(requirement)
        if bound is None:
            raise ValueError(f"pyproject.toml: expected `name>=version`, got {requirement!r}; state the lowest version")
        constraints.append(f"{bound[1]}=={bound[2]}")
    return sorted(set(constraints))


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text()))))
