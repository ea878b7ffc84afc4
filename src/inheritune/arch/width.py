Ranges = tuple[tuple[int, int], ...]


def halve(config):
    raise NotImplementedError


def kept_ranges(source, target):
    raise NotImplementedError
