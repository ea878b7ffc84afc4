"""Numbers as people read them."""


def with_error(value: float, error: float | None, sign: bool = False) -> str:
    """`2.8123 ±0.0031`; without an error (a single sequence) just the value."""
    shown = f"{value:+.4f}" if sign else f"{value:.4f}"
    return shown if error is None else f"{shown} ±{error:.4f}"


def short(count: float, digits: int = 3) -> str:
    """`1.31M` for 1,310,720, `1B` for 999,900,000."""
    for factor, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= (1 - 0.5 / 10**digits) * factor:  # 999.9K rounds to 1M
            return f"{count / factor:.{digits}g}{letter}"
    return f"{count:.{digits}g}"


def about(count: float) -> str:
    """The same to two digits: `410K` for 408,123."""
    return short(float(f"{count:.2g}"))


def many(count: int, word: str) -> str:
    """`1 block`, `2 blocks`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def spans(blocks: list[int]) -> str:
    """`0-11, 27-29` for the list of those numbers."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
