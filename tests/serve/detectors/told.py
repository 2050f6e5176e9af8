"""What stands in for a model where a test is about the process: quick to start, and it does what it is told."""

import os
import time

from monoskd.errors import InputError
from monoskd.images import decode_pixels


class Told:
    """Does what the name of the picture says."""

    classes, score = ("Car",), 0.2

    def __init__(self, model, limits):
        if model.path.name == "bad":
            raise InputError("bad: expected a model")
        if model.path.name == "dies":
            os._exit(9)

    def __call__(self, question):
        if question.name == "die":
            os._exit(9)
        if question.name == "sleep":
            time.sleep(60)
        if question.name == "fail":
            raise RuntimeError("a fault of ours")
        if question.name == "bad":
            raise InputError("picture: expected a good one")
        return {"said": question.name}


class Decoding(Told):
    """Decodes the picture as the real one does, and refuses a good one too."""

    def __call__(self, question):
        decode_pixels(question.data, mode="RGB", where="picture", formats=("JPEG", "PNG", "WEBP"))
        raise InputError("picture: expected another one")
