"""`ogpsa doctor --plan`: how much memory training and OGPSA take, from a model's configuration alone."""

from .engines import ENGINES
from .memory import Footprint, Memory, Shape, predict


__all__ = ["ENGINES", "Footprint", "Memory", "Shape", "predict"]
