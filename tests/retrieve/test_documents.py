"""Documents: every kind is read with its places; what cannot be read is refused with a reason."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lorakit.errors import DataError
from lorakit.retrieve.documents import read_documents
from lorakit.retrieve.html_text import html_text


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_folder_is_read_in_sorted_order_whatever_the_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        tmp_path,
        b_txt="\ufeffone\r\ntwo\r\n",
        a_md="# Title\n\ntext",
        deep__c_csv="text,other\nfrom a cell,x\n",
        d_jsonl='{"text": "row one"}\n\n{"text": "  "}\n{"text": "row\\nthree"}\n',
        e_html="<p>seen</p>",
        picture_png=b"\x89PNG\0",
        f_txt="  \n",
    )
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden", x_txt="never")
    caplog.set_level(logging.WARNING, logger="lorakit")
    found = read_documents(tmp_path)
    assert [(Path(d.path).name, d.text, d.lines) for d in found] == [
        ("a.md", "# Title\n\ntext", (1, 2, 3)),
        ("b.txt", "one\ntwo\n", (1, 2, 3)),
        ("d.jsonl", "row one", (1,)),
        ("d.jsonl", "row\nthree", (4, 4)),
        ("e.html", "seen", (1,)),
        ("c.csv", "from a cell", (2,)),
    ]
    assert "files that are not read: 1 .png" in caplog.text
    assert f"no text in 1 file(s): {tmp_path / 'f.txt'}" in caplog.text


def test_a_page_without_text_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, a_txt="text", b_html="<body><script>render()</script></body>")
    caplog.set_level(logging.WARNING, logger="lorakit")
    assert [Path(one.path).name for one in read_documents(tmp_path)] == ["a.txt"]
    assert f"no text in 1 file(s): {tmp_path / 'b.html'}" in caplog.text


def test_one_file_and_another_column(tmp_path: Path) -> None:
    write(tmp_path, d_jsonl='{"answer": "yes"}\n')
    (document,) = read_documents(tmp_path / "d.jsonl", text_column="answer")
    assert document.text == "yes"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a_txt", b"caf\xe9 au lait", "a.txt:1: byte 4 .0xe9. is not UTF-8"),
        ("a_txt", "text".encode("utf-16"), "a NUL byte|not UTF-8"),
        ("a_txt", b"\x00\x01", "a NUL byte at byte 1"),
        ("a_pdf", b"%PDF-1.7", "no plain text: .*a.pdf; read are .*pdftotext"),
        ("a_docx", b"PK", "no plain text"),
        ("a_png", b"x", "no documents in this folder; read are .txt"),
        ("a_txt", b" \n ", "no text in 1 file"),
        ("a_jsonl", b'{"body": "x"}\n', r"a.jsonl:1: no column 'text'; the row has \['body'\]"),
        ("a_jsonl", b'{"text": 3}\n', "a.jsonl:1: column 'text' holds a number"),
        ("a_jsonl", b"{broken\n", "a.jsonl:1: broken JSON"),
        ("a_html", b"<script>never seen</script>", "no text"),
    ],
)
def test_what_cannot_be_read_is_said(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    write(tmp_path, **{name: content})
    with pytest.raises(DataError, match=message):
        read_documents(tmp_path)


def test_a_pdf_named_by_itself_is_refused_and_so_is_nothing(tmp_path: Path) -> None:
    write(tmp_path, a_pdf=b"%PDF")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "a.pdf", "no plain text"),
        (tmp_path / "empty", "no documents in this folder"),
        (tmp_path / "none", "no such file or folder"),
        ("  ", "path of the documents is blank"),
    ):
        with pytest.raises(DataError, match=message):
            read_documents(source)


def test_html_is_what_a_reader_sees_with_the_lines_it_stands_in() -> None:
    page = """<!doctype html><html><head><title>never</title><style>p {}</style></head>
<body>
<nav>never</nav>
<h2>Fever &amp; chills</h2>
<p>Take <b>para</b>cetamol<br>500&nbsp;mg,
   twice.</p><script>never("</p>")</script>
<ul><li>rest<li>drink</ul>
after
</body></html>"""
    text, lines = html_text(page)
    assert text.split("\n\n") == [
        "## Fever & chills",
        "Take paracetamol",
        "500 mg, twice.",
        "rest",
        "drink",
        "after",
    ]
    assert lines[::2] == (4, 5, 5, 7, 7, 8)
    assert len(lines) == text.count("\n") + 1


@pytest.mark.parametrize(
    "page", ["", "<p>", "<p><b>open", "</p></p>text", "<head><body>x", "a < b"]
)
def test_broken_html_is_read_as_far_as_it_goes(page: str) -> None:
    text, lines = html_text(page)
    assert len(lines) == (text.count("\n") + 1 if text else 0)
    assert ("x" in text) == ("x" in page)


@pytest.mark.parametrize("tag", ["nav", "noscript", "svg", "template", "head"])
def test_what_is_not_seen_and_not_closed_does_not_hide_the_page(tag: str) -> None:
    assert html_text(f"<p>before</p>\n<{tag}><p>text</p>")[0] == "before\n\ntext"
    assert html_text(f"<{tag}>never<main>text</main>")[0] == "text"
    closed = f"<{tag}>never<p>nor this</p></{tag}><{tag}><p>text"
    assert html_text(closed) == ("text", (1,))
    assert html_text(f"<p>seen<{tag}>never</{tag}> too</p>")[0].split() == ["seen", "too"]
    assert html_text(f"<{tag}><p>text</p><script>never")[0] == "text"


def test_lines_of_pre_stay() -> None:
    page = "<p>run</p><pre>\nif a:\n    <b>b</b>()\n\n  c\n</pre>\n<p>x\n y</p>"
    text, lines = html_text(page)
    assert text == "run\n\nif a:\n    b()\n\n  c\n\nx y"
    assert lines == (1, 1, 2, 3, 4, 5, 5, 7)
