from dataclasses import dataclass


@dataclass(frozen=True)
class Fold:
    tensor: str
    dimension: int
    start: int
    stop: int
    factor: float


def folds(config, source_index, target_index):
    return []
@dataclass(frozen=True)
class Fill:
    tensor: str
    value: float
def fills(config, source_index, target_index, target_depth): return []
def packed_dimension(tensor): return None
