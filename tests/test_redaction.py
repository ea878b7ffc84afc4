"""What others may read: no credentials, no folders, no characters that do something."""

import time

import pytest

from inheritune.errors import InputError, RunError
from inheritune.redaction import holds_secret, public, visible, visible_text, without_folders, without_secrets

SECRETS = [
    "https://user:PASS@host/x.txt?key=PASS", "s3://key:PASS@bucket/part-*.txt", "https://PASS@host/x", "sftp://u:a/PASS@h/x",
    "https://host/x?X-Amz-Signature=PASS&b=1", "https://host/x#access_token=PASS", "https://host/x?PASS", "https://host/x#PASS", "gs://b/x?token=PASS",
    "simplecache::https://u:PASS@host/x", "--data.sources.0.path=https://u:PASS@h/x", "HF_TOKEN=PASS", "--token=PASS",
    "AWS_SECRET_ACCESS_KEY='PASS'", "api-key = PASS", "Authorization: Bearer PASSPASSPASS",
    "hf_PASSabcdefghijklmnop", "sk-PASSabcdefghijklmn", "sk-proj-PASS_abcdefghijklmn", "ghp_PASSabcdefghijklmnop",
    "github_pat_PASSabcdefghijklmnopqrst", "AKIAPASSABCDEFGHIJKL", "glpat-PASSabcdefghijklmnop", "xoxb-PASS-1234567890",
    "-----BEGIN RSA PRIVATE KEY-----\nPASS\n-----END RSA PRIVATE KEY-----", "eyJPASSabcdef.eyJPASSabcdef.PASS",
    "--token PASS", "--data.api-key PASS", '"token": "PASS"', "'aws_secret_access_key' : 'PASS'", f"https://u:{'a' * 3000}PASS@h/x",
]  # fmt: skip
PLAIN = [
    "hf://datasets/org/one@main/data/*.parquet", "s3://bucket/part-?.parquet", "https://huggingface.co/org/name",
    "tokenizer=gpt2", "600 tokens", "tokens=600", "eos_token='</s>'", "hf_checkpoint", "HF_TOKEN: there is no token",
    "https://host:8080/path@2x/x.txt", "0123456789abcdef0123456789abcdef01234567", "me@example.org", "sk-learn",
    '"pad_token": "</s>"', "--token --quiet", "token: a piece of a word",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_a_credential_is_taken_out_wherever_it_stands(text: str) -> None:
    for around in ("{}", "see {}, which is there", "('{}', 1)"):
        found = without_secrets(around.format(text))
        assert "PASS" not in found
        assert "[redacted]" in found
        assert without_secrets(found) == found
    assert "PASS" not in str(InputError("place", f"cannot read {text}", "look"))
    assert "PASS" not in str(RunError(text, "fails", "look").problems[0])
    assert "PASS" not in str(public({"a": [text, {"b": text}]}))


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_credential_stays(text: str) -> None:
    assert without_secrets(text) == text
    assert not holds_secret(text)


def test_values_of_keys_that_name_a_secret() -> None:
    tree = {"token": "x", "tokens": "y", "tokenizer": "z", "eos_token": "e", "env": {"HF_TOKEN": "x", "n": 1}}
    found = public(tree)
    assert (found["token"], found["env"]["HF_TOKEN"]) == ("[redacted]",) * 2
    assert (found["tokens"], found["tokenizer"], found["eos_token"], found["env"]["n"]) == ("y", "z", "e", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/text", "text"), ("~/text", "text"), ("/home/me/my text/a.txt", "a.txt"), ("org/name", "org/name"),
        ("hf://datasets/org/one", "hf://datasets/org/one"), ("file:///home/me/a.txt", "a.txt"),
        ("cannot read '/home/me/a.txt': gone", "cannot read 'a.txt': gone"), ("--out=/home/me/run", "--out=run"),
        ("C:\\Users\\me\\a.txt", "a.txt"), ("https://host/home/me", "https://host/home/me"), ("1 / 2", "1 / 2"),
        ("../../me/a.txt", "a.txt"), ("cannot read ../me/a.txt", "cannot read a.txt"), ("a/../b", "a/../b"), ("local:///home/me/a", "a"),
        ("simplecache::file:///home/me/a", "simplecache::a"),
    ],
)  # fmt: skip
def test_folders_of_this_machine(text: str, expected: str) -> None:
    assert without_folders(text) == expected


def test_characters_that_do_something_are_shown() -> None:
    assert visible("\x1b[31mred\x9b0m\x07\r\n\u202eabc\ud800\x7f") == (
        r"\x1b[31mred\x9b0m\x07\x0d\x0a\u202eabc\ud800\x7f"
    )
    plain = "Grüße, 日本語, emoji 👩\u200d💻 "
    assert visible(plain) == plain
    assert visible_text("a\r\n\tb\rc\x1b") == "a\n\tb\\x0dc\\x1b"
    assert str(InputError("a\x1b]0;title\x07", "b\u202e", "c")) == r"a\x1b]0;title\x07: b\u202e; c"


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "/a",
        "a.",
        "://",
        "a_",
        "a@",
        "token=",
        "https://",
        "-",
        "=",
        "/ ",
        "eyJa.",
        "../",
        "file:/",
        "--",
        "'token'",
        "--token ",
    ],
)
def test_time_grows_with_the_length_alone(part: str) -> None:
    began = time.process_time()
    for text in (part * 10_000, part * 10_000 + " "):
        without_folders(without_secrets(text))
    assert time.process_time() - began < 2
