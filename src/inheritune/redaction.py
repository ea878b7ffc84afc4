"""Text that others may read: without credentials, without folders of this machine, without control characters."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

REDACTED = "[redacted]"

# Each pattern begins only where a word does, or is bounded, so that the time grows with the length of a text alone.
_SCHEME = r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)"
_END = r"\s'\"<>"
_USER = re.compile(rf"{_SCHEME}[^/?#{_END}]+@")
# A password with a slash in it. What follows a colon may be a port, too.
_ODD_PASSWORD = re.compile(rf"{_SCHEME}[^/?#:@{_END}]{{1,200}}:(?!\d+(?:[/?#]|$))[^{_END}]{{0,200}}@")
_QUERY = re.compile(rf"(https?://[^?#{_END}]{{0,1000}})[?#][^{_END}]+", re.IGNORECASE)
_ASSIGNED_QUERY = re.compile(rf"{_SCHEME}([^?#{_END}]{{0,1000}})\?[\w.%-]+=[^{_END}]*")
_TOKENS = (
    r"hf_[A-Za-z0-9]{16,}",
    r"api_org_[A-Za-z0-9]{16,}",
    r"sk-[A-Za-z0-9_-]{16,}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,}",
    r"gh[opusr]_[A-Za-z0-9]{16,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"ya29\.[A-Za-z0-9_-]{10,}",
    r"wandb_v1_[A-Za-z0-9_]{16,}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_-]{16,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+",
)
_TOKEN = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS)})")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_HEADER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}")
_SECRET_WORDS = (
    r"token|password|passwd|passphrase|secret|secret_?key|api_?key|access_?key|access_?key_?id|account_?key"
    r"|secret_?access_?key|private_?key|credentials?|authorization|client_?secret|sas_?token|pwd"
)
_NOT_SECRET = "bos|eos|pad|unk|sep|cls|mask|special|image|start|end"  # tokens of a tokenizer
_NAME = rf"(?:(?!(?:{_NOT_SECRET})_)[A-Za-z0-9]+[_-])*(?:{_SECRET_WORDS.replace('_?', '[_-]?')})"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_VALUE = r"(?!\[redacted\])(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)"
_ASSIGNMENT = re.compile(rf"(?<![A-Za-z0-9_-])((?:--)?{_NAME}['\"]?\s{{0,9}}=\s{{0,9}}){_VALUE}", re.IGNORECASE)
_OPTION = re.compile(rf"((?<![\w-])--(?:[\w-]+\.)*{_NAME}\s{{1,9}})(?!-){_VALUE}", re.IGNORECASE)
_ENTRY = re.compile(rf"(['\"]{_NAME}['\"]\s{{0,9}}:\s{{0,9}})(?=['\"]){_VALUE}", re.IGNORECASE)
_PART = r"[^\s/\\'\"<>|:;,()\[\]{}=]+"
_FILE_ADDRESS = re.compile(rf"\b(?:file|local):(?://[^/\s]*)?/(?:{_PART}/+)*")
_PATH = re.compile(rf"(?<![\w./:\\~<\]-])(?:~[\w.-]*/|/|(?:\.\./)+|[A-Za-z]:\\|\\\\)(?:{_PART}[/\\]+)*(?=[^\s/\\])")


def without_secrets(text: str) -> str:
    """`text` with `[redacted]` in place of user names, passwords and queries of addresses, known kinds of tokens, and
    values of a name such as `token` or `api_key` (`token=x`, `--token x`, `"token": "x"`).
    """
    text = _PRIVATE_KEY.sub(REDACTED, text)
    text = _USER.sub(rf"\1{REDACTED}@", _ODD_PASSWORD.sub(rf"\1{REDACTED}@", text))
    text = _QUERY.sub(rf"\1?{REDACTED}", text)
    text = _ASSIGNED_QUERY.sub(rf"\1\2?{REDACTED}", text)
    text = _HEADER.sub(rf"\1 {REDACTED}", text)
    for pattern in (_ASSIGNMENT, _OPTION, _ENTRY):
        text = pattern.sub(rf"\1{REDACTED}", text)
    return _TOKEN.sub(REDACTED, text)


def holds_secret(text: str) -> bool:
    """Whether `text` certainly holds a credential: a password in an address, a token of a known kind or a private key.

    Queries and assignments do not count, as examples in documentation have them too.
    """
    users = (match[0] for match in _USER.finditer(text))
    named = any(":" in user.partition("://")[2] and REDACTED not in user for user in users)
    return named or bool(_TOKEN.search(text) or _PRIVATE_KEY.search(text))


def without_folders(text: str) -> str:
    """`text` with each absolute path, and each path that leads upwards or to a home, cut to its last part."""
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    is_path = text.startswith(("~", "../")) or posix.is_absolute() or windows.is_absolute()
    if is_path and text.strip() == text and "\n" not in text:
        return (windows if "\\" in text and "/" not in text else posix).name or text
    return _PATH.sub("", _FILE_ADDRESS.sub("", text))


def public(value: Any) -> Any:
    """`value`, a text or a tree of settings, without credentials and without folders."""
    return _mapped(value, lambda text: without_folders(without_secrets(text)))


def confidential(value: Any) -> Any:
    """`value`, a text or a tree of settings, without credentials; folders stay."""
    return _mapped(value, without_secrets)


def visible(text: str, keep: str = "") -> str:
    r"""`text` with escapes such as `\x1b` for control characters, characters that turn the direction of writing, and
    halves of surrogate pairs, so that they do nothing where the text is shown. Those in `keep` stay as they are.
    """
    if text.isprintable():  # the usual case
        return text
    return "".join(_escape(sign) if sign not in keep else sign for sign in text)


def visible_text(text: str) -> str:
    """As `visible`, for several lines: line breaks and tabs stay, line ends of Windows become plain ones."""
    return visible(text.replace("\r\n", "\n"), keep="\n\t")


def _mapped(value: Any, change: Callable[[str], str], secret: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: _mapped(inner, change, isinstance(key, str) and _SECRET_NAME.fullmatch(key) is not None)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(inner, change, secret) for inner in value]
    if isinstance(value, str):
        return REDACTED if secret and value else change(value)
    return value


def _escape(sign: str) -> str:
    """A character, or its escape where it is not shown but does something: a control, a format, a line separator."""
    if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or sign in "\u200c\u200d\u00ad":  # joiners
        return sign
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
