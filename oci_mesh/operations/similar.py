"""Names of this mesh's images that are like one that is not there."""

from itertools import islice
from typing import Final

from oci_mesh.members.names import NameRegister

# Names compared, those of the same repository first, in some ten milliseconds.
MAX_COMPARED: Final = 5000
MAX_SIMILAR: Final = 5


def similar_images(register: NameRegister, repository: str, tag: str) -> list[str]:
    """The most similar `repository:tag`s that there are, the likeliest first."""
    from difflib import get_close_matches

    own = [record for record in register.all() if record.is_tag and record.target is not None]
    own.sort(key=lambda record: record.repository != repository)
    names = (f"{record.repository}:{record.name}" for record in islice(own, MAX_COMPARED))
    return get_close_matches(f"{repository}:{tag}", list(names), MAX_SIMILAR)
