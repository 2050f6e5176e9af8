"""What one client may ask of the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    upload_bytes: of a request; pixels: of a picture; least_side_px: of its shorter side, as a very long picture needs a
    very long network input. upload_s: until a request has arrived; answer_s: until a picture is predicted; requests:
    that may be there at a time.
    """

    upload_bytes: int = 20 * 2**20
    pixels: int = 40_000_000
    least_side_px: int = 32
    upload_s: float = 30.0
    answer_s: float = 60.0
    requests: int = 32
