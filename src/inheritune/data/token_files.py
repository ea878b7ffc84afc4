"""Token files of other programs: where their tokens begin, and whether a token has two or four bytes."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inheritune.data.shards import DTYPES, Array, file_size
from inheritune.errors import InputError
from inheritune.recipe import TokenFiles

REMEDY = "bring the file back as it was, or start again in another folder"
_NARROW, _WIDE = DTYPES
# llm.c's headers: 256 int32, of which the first are magic number, version and number of tokens.
_LLM_C = {(20240520, 1): _NARROW, (20240801, 7): _WIDE}
_LLM_C_BYTES = 1024
_NPY = b"\x93NUMPY"
_SAMPLE = 2**16  # bytes of a file that are examined
_ENOUGH = 16  # pairs of halves, so that a pattern in them is no chance
_SMALL = 16  # upper halves below it belong to a vocabulary of up to a million entries
_REMEDY_DTYPE = "give it as `data.tokens.dtype` in a recipe, or `inheritune prepare FOLDER --dtype`"


@dataclass(frozen=True)
class TokenFile:
    """A file, the type of its tokens (None: not known yet), and the bytes before the first one."""

    file: Path
    dtype: str | None
    offset: int = 0


def list_token_files(files: TokenFiles) -> dict[str, list[TokenFile]]:
    """The files of 'train' and 'validation' in their order, with the types that the files themselves declare.

    Raises InputError for a name that matches nothing, an unknown kind of file, a file without tokens or with half a
    token, and a file that is named twice.
    """
    named = {split: _matching(getattr(files, split), f"data.tokens.{split}") for split in ("train", "validation")}
    every = [file for split in named.values() for file in split]
    for file in every:
        if every.count(file) > 1:
            raise InputError(str(file), "is named twice in data.tokens", "name it once: validation is never trained on")
    return {split: [_check_size(_declared(file), files.dtype) for file in each] for split, each in named.items()}


def typed(files: TokenFiles, vocabulary: int) -> dict[str, list[TokenFile]]:
    """As `list_token_files`, with the type of all tokens.

    The files or the recipe declare it, the vocabulary (1 + the largest id) needs it, or the first bytes show it. Raises
    InputError where these contradict each other, and where nothing shows it.
    """
    listed = list_token_files(files)
    known = {one.file: _dtype(one, files.dtype, vocabulary) for each in listed.values() for one in each}
    dtypes = set(known.values()) - {None}
    if not dtypes:
        what = "its tokens may be uint16 or uint32: every second value of 16 bits is 0"
        raise InputError(str(next(iter(known))), what, _REMEDY_DTYPE)
    if len(dtypes) > 1:
        narrow, wide = (next(file for file, dtype in known.items() if dtype == name) for name in DTYPES)
        raise InputError(str(wide), f"has {_WIDE} tokens, {narrow} has {_NARROW}", "give files of one type")
    dtype = dtypes.pop()
    return {split: [replace(_check_size(one, dtype), dtype=dtype) for one in each] for split, each in listed.items()}


def tokens_in(one: TokenFile) -> int:
    """How many tokens a file has whose type is known."""
    assert one.dtype is not None
    return (one.file.stat().st_size - one.offset) // np.dtype(one.dtype).itemsize


def _dtype(one: TokenFile, asked: str | None, vocabulary: int) -> str | None:
    """The type of a file's tokens; None where nothing shows it."""
    place = str(one.file)
    if one.dtype is not None and asked is not None and one.dtype != asked:
        what = f"declares {one.dtype} tokens, and data.tokens.dtype is {asked}"
        raise InputError(place, what, "remove data.tokens.dtype, or give files of one type")
    dtype = one.dtype or asked
    if vocabulary > 2**16:
        if dtype == _NARROW or (dtype is None and _shown(one) == _NARROW):
            holds = "holds" if dtype else "seems to hold"
            what = f"{holds} uint16 tokens, but a vocabulary of {vocabulary:,} needs uint32"
            raise InputError(place, what, "give uint32 files that the reference's tokenizer made")
        return _WIDE
    return dtype or _shown(one)


def _shown(one: TokenFile) -> str | None:
    """The type that a file's first bytes show; None where both are possible.

    Every second half of uint32 tokens is 0, or small where the vocabulary has more than 65,536 entries. No text in
    uint16 looks like that.
    """
    size = file_size(one.file, REMEDY) - one.offset
    if size % 4:
        return _NARROW
    with one.file.open("rb") as opened:
        opened.seek(one.offset)
        halves: Array = np.frombuffer(opened.read(_SAMPLE), "<u2")
    low, high = halves[::2], halves[1::2]
    if not high.any():
        return _WIDE if low.any() and len(low) >= _ENOUGH else None
    is_wide = len(low) >= _ENOUGH and int(high.max()) < _SMALL and int(low.max()) >= 2**8
    return _WIDE if is_wide else _NARROW


def _declared(file: Path) -> TokenFile:
    """What a file's name and first bytes declare."""
    if file.suffix not in (".bin", ".ds", ".npy"):
        raise InputError(str(file), "no token file", "give .bin (nanoGPT, llm.c), .ds (datatrove) or .npy (NumPy)")
    if not file_size(file, REMEDY):
        raise InputError(str(file), "is empty", "give a whole file")
    with file.open("rb") as opened:
        begin = opened.read(_LLM_C_BYTES)
    if begin.startswith(_NPY):
        return _numpy(file)
    if file.suffix == ".npy":
        raise InputError(str(file), "is no .npy file", "write it with numpy.save, or name raw tokens .bin")
    metadata = file.with_name(f"{file.name}.metadata")  # of datatrove
    if file.suffix == ".ds" and metadata.exists():
        width = metadata.read_text(encoding="utf-8").partition("\n")[0].rpartition("|")[2].strip()
        if width not in ("2", "4"):
            what = f"declares {width!r} bytes a token, legal are 2 and 4"
            raise InputError(str(metadata), what, "correct or delete it")
        return TokenFile(file, _WIDE if width == "4" else _NARROW)
    if file.suffix == ".ds":
        return TokenFile(file, None)
    return _llm_c(file, begin) or TokenFile(file, None)


def _llm_c(file: Path, begin: bytes) -> TokenFile | None:
    """A file with llm.c's header; None for one without."""
    if len(begin) < _LLM_C_BYTES:
        return None
    magic, version, count = np.frombuffer(begin, "<i4", 3).tolist()
    zeros = not any(begin[12:])  # the rest of a header; tokens may begin like one by chance
    dtype = _LLM_C.get((magic, version))
    if dtype is None:
        if zeros and magic in {known for known, _ in _LLM_C}:
            what = f"an llm.c file of version {version}, which is not known"
            raise InputError(str(file), what, "write its tokens into a .bin without a header, or a .npy")
        return None
    size = _LLM_C_BYTES + count * np.dtype(dtype).itemsize
    if file.stat().st_size == size:
        return TokenFile(file, dtype, _LLM_C_BYTES)
    if zeros:
        raise _wrong_size(file, f"its llm.c header declares {count:,} {dtype} tokens", size)
    return None


def _numpy(file: Path) -> TokenFile:
    from numpy.lib import format as npy

    with file.open("rb") as opened:
        try:
            version = npy.read_magic(opened)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(opened)
        except ValueError as error:
            raise InputError(str(file), f"a damaged .npy file ({error})", "write it again") from None
        offset = opened.tell()
    if dtype.newbyteorder("=").name not in DTYPES or dtype.byteorder == ">" or len(shape) != 1:
        what = f"an array of {dtype} with {len(shape)} dimensions, needed are uint16 or uint32 in one"
        remedy = f"numpy.load('{file.name}').ravel().astype('uint16').tofile('{file.stem}.bin') in Python, or 'uint32'"
        raise InputError(str(file), what, f"convert it: {remedy}")
    size = offset + shape[0] * dtype.itemsize
    if file.stat().st_size != size:
        raise _wrong_size(file, f"its header declares {shape[0]:,} tokens", size)
    return TokenFile(file, dtype.name, offset)


def _wrong_size(file: Path, declared: str, size: int) -> InputError:
    return InputError(str(file), f"has {file.stat().st_size} bytes, and {declared} ({size} bytes)", "give a whole file")


def _check_size(one: TokenFile, dtype: str | None) -> TokenFile:
    """Return the file. Raises InputError for no token or half a token, of the known type or else the smaller one."""
    size, width = file_size(one.file, REMEDY) - one.offset, np.dtype(one.dtype or dtype or _NARROW).itemsize
    if not size or size % width:
        what = f"has {size} bytes, a token has {width}" if size else "has no tokens"
        remedy = f"give a whole file of {np.dtype(f'u{width}').name} tokens without a header"
        raise InputError(str(one.file), what, remedy)
    return one


def _matching(patterns: Sequence[str], place: str) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise InputError(place, f"no such file: {pattern}", "correct the path or pattern")
        files += [Path(name).resolve() for name in matches]
    return files
