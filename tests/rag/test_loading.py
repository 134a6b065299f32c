from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rag import documents
from rerankit.rag.loading import Chunking, iter_passages, load
from rerankit.rerankers.prepare import clean


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pdf(pages: list[str], title: str = "") -> bytes:
    """A small PDF with one line of text per page, written by hand."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        page = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * n} 0 R"
        objects.append(f"<< {page} /Resources << /Font << /F1 3 0 R >> >> >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    return (
        data
        + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}\nstartxref\n{len(data)}\n%%EOF".encode()
    )


def only_problem(loaded):
    assert loaded.passages == []
    (problem,) = loaded.problems
    return str(problem)


class TestDocuments:
    def test_text_with_title_offsets_and_source(self, tmp_path):
        text = "Liming acid soil\n\nLime raises the pH. Spread it in autumn."
        path = write(tmp_path, "soil.txt", text)
        loaded = load(path)
        (passage,) = loaded.passages
        assert passage.id == "soil.txt#0001"
        assert passage.title == "Liming acid soil"
        assert passage.metadata["source"] == "soil.txt"
        assert text[passage.metadata["start"] : passage.metadata["end"]] == passage.text
        assert loaded.problems == []

    def test_markdown_headings_become_titles_and_offsets_point_into_the_file(self, tmp_path):
        text = (
            "---\ntitle: Soil care\n---\nIntro line.\n\n# Soil care\n## Liming ##\nLime it.\n\n"
            "```sh\n# no heading\n```\n\n## Drainage in C#\nDrain it.\n# Plants\nSow."
        )
        write(tmp_path, "a.md", text)
        passages = load(tmp_path).passages
        titles = ["Soil care", "Soil care > Liming", "Soil care > Drainage in C#", "Soil care > Plants"]
        assert [p.title for p in passages] == titles
        assert "# no heading" in passages[1].text
        assert [p.id for p in passages] == [f"a.md#{n:04d}" for n in range(1, 5)]
        assert all(text[p.metadata["start"] : p.metadata["end"]] == p.text for p in passages)

    def test_html_keeps_what_a_reader_sees(self, tmp_path):
        write(
            tmp_path,
            "page.html",
            """<html><head><title>Tomato blight</title><style>p {color: red}</style>
            <script src="http://127.0.0.1:9/x.js">alert("run")</script></head>
            <body><nav>Home | About</nav><h1>Tomato blight</h1><p>Remove <b>infected</b>
            leaves.<br>Burn them.</p><!-- hidden --><h2>Sprays</h2><table><tr><th>Name</th><td>Copper</td></tr></table>
            <img src="http://127.0.0.1:9/p.png"></body></html>""",
        )
        first, second = load(tmp_path).passages
        assert first.title == "Tomato blight"
        assert first.text == "Remove infected leaves.\nBurn them."
        assert second.title == "Tomato blight > Sprays"
        assert second.text == "Name | Copper"

    def test_html_is_no_place_to_hide_text_or_to_run_code(self, tmp_path):
        write(tmp_path, "a.html", "<p>Seen<!-- <p>hidden</p> --> here</p><iframe>no</iframe><p>End<!-- open <p>gone")
        assert load(tmp_path).passages[0].text == "Seen here\n\nEnd"

    @pytest.mark.parametrize(
        "piece", ["<div>", "<", "<!--", "<a b", "<p>x", '<a href="', "<![CDATA[", "<?", "<td>a", "&amp"]
    )
    @pytest.mark.timeout(120)  # quadratic time over half a megabyte is longer, linear time seconds
    def test_hostile_html_takes_linear_time(self, tmp_path, piece):
        write(tmp_path, "a.html", "<p>Start.</p>" + piece * (500_000 // len(piece)))
        assert load(tmp_path).passages[0].text.startswith("Start.")

    def test_html_of_too_many_tags_is_named_and_the_others_load(self, tmp_path, monkeypatch):
        monkeypatch.setattr(documents, "_MOST_TAGS", 100)
        write(tmp_path, "a.html", "<p>" * 101)
        write(tmp_path, "b.html", "<p>Fine.</p>" * 50)
        loaded = load(tmp_path)
        assert {p.metadata["source"] for p in loaded.passages} == {"b.html"}
        assert "a.html: the page has 101 tags; at most 100 are read" in str(loaded.problems[0])

    def test_hostile_front_matter_is_read(self, tmp_path):
        write(tmp_path, "a.md", f"---\ntitle: 'a{' ' * 50_000}b'\n---\nText.")
        (passage,) = load(tmp_path).passages
        assert (passage.title[0], passage.text) == ("a", "Text.")
        write(tmp_path, "a.md", '---\nx: y\ntitle:  "Lime" \n---\nText.')
        assert load(tmp_path).passages[0].title == "Lime"

    def test_a_title_is_bounded(self, tmp_path):
        write(tmp_path, "a.md", f"# {'lime ' * 10_000}\nSpread it.")
        write(tmp_path, "b.jsonl", json.dumps({"title": "x" * 10_000, "text": "Row."}))
        assert [len(p.title) for p in load(tmp_path).passages] == [300, 300]

    def test_html_honours_its_declared_charset(self, tmp_path):
        write(tmp_path, "a.html", '<meta charset="iso-8859-2"><p>Półka</p>'.encode("iso-8859-2"))
        assert load(tmp_path).passages[0].text == "Półka"

    def test_pdf_pages_and_title(self, tmp_path):
        write(tmp_path, "guide.pdf", pdf(["Prune in winter.", "Graft in spring."], "Orchard guide"))
        passages = load(tmp_path).passages
        assert [p.text for p in passages] == ["Prune in winter.", "Graft in spring."]
        assert [p.metadata["page"] for p in passages] == [1, 2]
        assert {p.title for p in passages} == {"Orchard guide"}
        assert [p.id for p in passages] == ["guide.pdf#0001", "guide.pdf#0002"]

    def test_long_texts_are_chunked_and_none_keeps_them_whole(self, tmp_path):
        path = write(tmp_path, "long.txt", "Water the field every week in summer. " * 200)
        assert len(load(path, chunking=Chunking(words=50)).passages) > 20
        assert len(load(path, chunking=None).passages) == 1


class TestRows:
    def test_jsonl_rows_keep_ids_titles_and_metadata(self, tmp_path):
        rows = [
            {"_id": "d1", "title": "Maize", "text": "Sow maize in May.", "metadata": {"region": "north"}, "year": 2020},
            {"id": 7, "contents": "Sow wheat in October."},
            {"text": "No id here."},
        ]
        write(tmp_path, "corpus.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
        one, two, three = load(tmp_path).passages
        assert (one.id, one.title, one.text) == ("d1", "Maize", "Sow maize in May.")
        assert one.metadata == {"source": "corpus.jsonl", "line": 1, "year": 2020, "region": "north"}
        assert (two.id, two.text) == ("7", "Sow wheat in October.")
        assert three.id == "corpus.jsonl#0003"

    def test_only_a_row_longer_than_two_chunks_is_cut(self, tmp_path):
        sentence = "Water the field every week in summer. "
        write(tmp_path, "a.jsonl", json.dumps({"id": "s", "text": sentence * 10}) + "\n")
        write(tmp_path, "b.jsonl", json.dumps({"id": "l", "text": sentence * 20}) + "\n")
        loaded = load(tmp_path, chunking=Chunking(words=40)).passages
        assert [p.id for p in loaded][:2] == ["s", "l#0001"]
        text = sentence * 20
        assert all(text[p.metadata["start"] : p.metadata["end"]] == p.text for p in loaded[1:])

    def test_broken_lines_are_named_and_the_others_load(self, tmp_path):
        lines = [
            b'{"id": "a", "text": "good"}', b'{"id": "b", "text": ', b'[1]', b'{"id": "c"}', b'{"text": 5}',
            b'{"text": " "}', b'{"text": "\xff"}', b"[" * 100_000, b'{"id": "z", "text": "good too"}',
        ]  # fmt: skip
        write(tmp_path, "x.jsonl", b"\n".join(lines))
        loaded = load(tmp_path)
        assert [p.id for p in loaded.passages] == ["a", "z"]
        assert [p.line for p in loaded.problems] == [2, 3, 4, 5, 6, 7, 8]
        assert str(loaded.problems[0]).startswith("x.jsonl:2: invalid JSON")
        assert "nested" in str(loaded.problems[6])

    def test_a_row_nested_too_deeply_is_named_and_the_others_load(self, tmp_path):
        deep = '{"text": "kiwis", "metadata": {"m": ' + "[" * 900 + "]" * 900 + "}}"
        write(tmp_path, "x.jsonl", deep + '\n{"text": "figs", "metadata": {"m": [[[1]]]}}\n')
        loaded = load(tmp_path)
        assert [(p.text, p.metadata["m"]) for p in loaded.passages] == [("figs", [[[1]]])]
        assert str(loaded.problems[0]) == "x.jsonl:1: the JSON is nested too deeply; skipped"

    def test_json_over_several_lines_says_what_a_line_must_be(self, tmp_path):
        write(tmp_path, "x.jsonl", '{\n"text": "kiwis"}')
        assert "; each line must be one JSON object" in str(load(tmp_path).problems[0])

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize(
        ("name", "content"), [("a.csv", "id,text\n1,Sow\n2,Reap\n"), ("a.jsonl", '{"text": "Sow"}\n{"text": "Reap"}\n')]
    )
    def test_rows_in_utf_16_are_one_problem(self, tmp_path, name, content, encoding):
        write(tmp_path, name, ("\ufeff" + content).encode(encoding))
        assert only_problem(load(tmp_path)) == f"{name}: the file is UTF-16; save it as UTF-8; skipped"

    def test_a_huge_line_is_skipped_without_reading_it_into_memory(self, tmp_path):
        write(tmp_path, "x.jsonl", b'{"text": "' + b"a" * 5_000_000 + b'"}\n{"text": "good"}\n')
        loaded = load(tmp_path, max_bytes=1000)
        assert [p.text for p in loaded.passages] == ["good"]
        assert "max_bytes" in str(loaded.problems[0])

    @pytest.mark.parametrize(
        ("name", "content", "column"),
        [
            ("a.csv", "ID,Title,Text,Region\n1,Maize,Sow in May.,north\n", None),
            ("a.csv", '\ufeffID;Title;Notes;Region\n1;Maize;"Sow in May.";north\n', None),
            ("a.tsv", "ID\tTitle\tWhat\tRegion\n1\tMaize\tSow in May.\tnorth\n", "What"),
        ],
    )
    def test_csv_finds_its_text_column(self, tmp_path, name, content, column):
        write(tmp_path, name, content)
        (passage,) = load(tmp_path, text_column=column).passages
        assert (passage.id, passage.title, passage.text) == ("1", "Maize", "Sow in May.")
        assert passage.metadata["Region"] == "north"

    def test_csv_quoted_line_breaks_and_broken_rows(self, tmp_path):
        write(tmp_path, "a.csv", 'id,text\n1,"two\nlines"\n2,a,b,c\n3\n4,\n5,fine\n')
        loaded = load(tmp_path)
        assert [p.text for p in loaded.passages] == ["two\nlines", "fine"]
        assert [p.line for p in loaded.problems] == [4, 5, 6]

    def test_csv_with_a_field_that_is_too_long_goes_on(self, tmp_path):
        write(tmp_path, "a.csv", "id,text\n1," + "a" * 200_000 + "\n2,fine\n")
        loaded = load(tmp_path)
        assert [p.text for p in loaded.passages] == ["fine"]
        assert "field larger" in str(loaded.problems[0])
        assert "csv.field_size_limit" in str(loaded.problems[0])

    def test_csv_in_an_old_encoding_is_read_and_said(self, tmp_path):
        write(tmp_path, "a.csv", "id,text\n1,Käse\n".encode("cp1252"))
        loaded = load(tmp_path)
        assert loaded.passages[0].text == "Käse"
        assert "cp1252" in str(loaded.problems[0])
        assert not loaded.problems[0].skipped

    def test_csv_with_a_quote_that_is_never_closed_says_where(self, tmp_path):
        write(tmp_path, "a.csv", 'id,text\n1,fine\n2,"open\n3,lost\n4,lost too\n')
        loaded = load(tmp_path)
        assert [p.text for p in loaded.passages] == ["fine"]
        assert str(loaded.problems[0]).startswith("a.csv:3: a quote in this row is never closed")

    def test_csv_with_a_quote_open_in_its_header_says_so(self, tmp_path):
        write(tmp_path, "a.csv", 'id,"text\n1,lost\n')
        loaded = load(tmp_path)
        assert loaded.passages == []
        assert "a.csv:1: a quote" in str(loaded.problems[0])

    def test_csv_whose_last_quote_is_closed_is_whole(self, tmp_path):
        write(tmp_path, "a.csv", 'id,text\n1,"two\nlines"')
        assert [p.text for p in load(tmp_path).passages] == ["two\nlines"]
        assert load(tmp_path).problems == []

    def test_a_wrong_column_name_lists_the_right_ones(self, tmp_path):
        write(tmp_path, "a.csv", "id,text\n1,x\n")
        assert "the header has id, text" in only_problem(load(tmp_path, text_column="body"))


class TestRowIds:
    def test_two_files_that_number_their_rows_both_load(self, tmp_path):
        write(tmp_path, "a.csv", "id,text\n1,Sow maize.\n2,Sow wheat.\n")
        write(tmp_path, "b.csv", "id,text\n1,Milk cows.\n2,Shear sheep.\n3,Feed hens.\n")
        loaded = load(tmp_path)
        assert [p.id for p in loaded.passages] == ["1", "2", "b.csv#0002", "b.csv#0003", "3"]
        (problem,) = loaded.problems
        assert (problem.source, problem.line, problem.skipped) == ("b.csv", 2, False)
        assert "'1' is that of a.csv:2" in str(problem)

    def test_rows_of_one_file_that_share_an_id_get_different_ones(self, tmp_path):
        rows = [{"id": "same", "text": f"Row {n}"} for n in range(4)]
        write(tmp_path, "x.jsonl", "\n".join(map(json.dumps, rows)))
        loaded = load(tmp_path)
        assert [p.id for p in loaded.passages] == ["same", "x.jsonl#0002", "x.jsonl#0003", "x.jsonl#0004"]
        assert len(loaded.problems) == 1

    def test_long_rows_that_share_an_id_are_told_apart(self, tmp_path):
        long = "Water the field every week in summer. " * 20
        write(tmp_path, "x.jsonl", "\n".join(json.dumps({"id": "l", "text": long}) for _ in range(2)))
        ids = [p.id for p in load(tmp_path, chunking=Chunking(words=40)).passages]
        assert {key.partition("#0001")[0] for key in ids[:1]} == {"l"}
        assert len(set(ids)) == len(ids)
        assert any(key.startswith("x.jsonl#0002#") for key in ids)

    def test_an_id_that_mimics_a_made_one_costs_that_passage_only(self, tmp_path):
        write(tmp_path, "a.jsonl", json.dumps({"id": "b.txt#0001", "text": "A row."}))
        write(tmp_path, "b.txt", "A text.")
        write(tmp_path, "c.txt", "Another.")
        loaded = load(tmp_path)
        assert [p.id for p in loaded.passages] == ["b.txt#0001", "c.txt#0001"]
        assert str(loaded.problems[0]) == "b.txt: the id 'b.txt#0001' is that of a.jsonl:1 already; skipped"

    def test_the_stream_may_be_continued_by_another_thread(self, tmp_path):
        write(tmp_path, "a.csv", "id,text\n1,Sow maize.\n2,Sow wheat.\n")
        stream = iter_passages(tmp_path)
        assert next(stream).id == "1"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(next, stream).result().id == "2"


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("a.txt", b"", "empty"),
            ("a.md", b" \n\n", "empty"),
            ("a.jsonl", b"", "empty"),
            ("a.csv", b"", "no rows"),
            ("a.pdf", b"", "the file is empty"),
            ("a.pdf", b"<html>Not found</html>", "no PDF, whatever its name"),
            ("a.txt", bytes(range(256)) * 20, "binary"),
            ("a.html", bytes(range(256)) * 20, "binary"),
            ("a.txt", b"\xff\xfe\x00", "UTF-16"),
            ("a.pdf", b"%PDF-1.4 nothing follows", "cannot be read"),
            ("a.pdf", pdf([""]), "scan"),
            ("a.docx", b"x", "other formats: .docx (1)"),
        ],
    )
    def test_each_is_reported_by_name(self, tmp_path, name, content, reason):
        write(tmp_path, name, content)
        problem = only_problem(load(tmp_path))
        assert reason in problem
        assert name.removesuffix(".docx") in problem or ".docx" in problem

    def test_one_broken_file_does_not_stop_the_others(self, tmp_path):
        write(tmp_path, "a.pdf", b"junk")
        write(tmp_path, "b.txt", "Fine.")
        loaded = load(tmp_path)
        assert [p.text for p in loaded.passages] == ["Fine."]
        assert loaded.problems[0].source == "a.pdf"

    def test_the_pdf_reader_adds_no_lines_without_a_name(self, tmp_path, caplog):
        write(tmp_path, "a.pdf", pdf(["Prune."]).replace(b"startxref\n", b"startxref\n1"))
        assert [p.text for p in load(tmp_path).passages] == ["Prune."]
        assert caplog.records == []

    def test_an_encrypted_pdf_says_so(self, tmp_path):
        writer = pypdf.PdfWriter()
        writer.add_blank_page(100, 100)
        writer.encrypt("secret", algorithm="RC4-128")
        writer.write(tmp_path / "a.pdf")
        assert "encrypted" in only_problem(load(tmp_path))

    @given(st.binary(max_size=300))
    @settings(max_examples=60, deadline=None)
    def test_no_content_stops_the_loader(self, tmp_path_factory, content):
        folder = tmp_path_factory.mktemp("junk")
        for name in ("a.txt", "a.md", "a.html", "a.pdf", "a.jsonl", "a.csv"):
            write(folder, name, content)
        loaded = load(folder)
        named = {p.metadata["source"] for p in loaded.passages} | {problem.source for problem in loaded.problems}
        assert named == {"a.txt", "a.md", "a.html", "a.pdf", "a.jsonl", "a.csv"}

    def test_an_old_encoding_is_read_and_said(self, tmp_path):
        write(tmp_path, "a.txt", "Käse und Öl".encode("cp1252"))
        loaded = load(tmp_path)
        assert loaded.passages[0].text == "Käse und Öl"
        assert str(loaded.problems[0]) == "a.txt: not UTF-8; read as cp1252"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_unicode_files_need_no_comment(self, tmp_path, encoding):
        write(tmp_path, "a.txt", "Käse".encode(encoding))
        loaded = load(tmp_path)
        assert (loaded.passages[0].text, loaded.problems) == ("Käse", [])

    def test_control_characters_and_surrogates_are_replaced_one_for_one(self, tmp_path):
        write(tmp_path, "a.txt", b"Lime\x00 it\x1b now.")
        write(tmp_path, "b.jsonl", rb'{"text": "Lime\ud800 it\u0000 now."}')
        one, two = load(tmp_path).passages
        assert (one.text, two.text) == ("Lime  it  now.", "Lime\ufffd it  now.")

    def test_a_file_over_the_limit_is_not_read(self, tmp_path):
        write(tmp_path, "a.txt", "x" * 2000)
        assert "more than max_bytes=1,000" in only_problem(load(tmp_path, max_bytes=1000))

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.txt")
        assert "not a regular file" in only_problem(load(tmp_path))

    def test_a_dangling_link_is_reported(self, tmp_path):
        (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
        assert "a.txt: cannot be read (No such file" in only_problem(load(tmp_path))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_missing_permissions_are_reported(self, tmp_path):
        write(tmp_path, "a.txt", "x").chmod(0)
        write(tmp_path, "closed/b.txt", "x")
        (tmp_path / "closed").chmod(0)
        loaded = load(tmp_path)
        (tmp_path / "closed").chmod(0o700)
        assert len(loaded.problems) == 2
        assert all("Permission denied" in str(problem) for problem in loaded.problems)

    def test_problems_are_logged_when_nobody_listens(self, tmp_path, caplog):
        write(tmp_path, "a.txt", "")
        with caplog.at_level(logging.WARNING):
            assert list(iter_passages(tmp_path)) == []
        assert "a.txt: the file is empty; skipped" in caplog.text


class TestPaths:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.txt", "a/c.md", "a/deep/d.txt", ".hidden.txt", ".git/e.txt", "f.png"):
            write(tmp_path, name, f"Text of {name}.")
        return tmp_path

    def test_a_folder_is_read_recursively_without_hidden_names(self, folder):
        loaded = load(folder)
        assert [p.id for p in loaded.passages] == ["b.txt#0001", "a/c.md#0001", "a/deep/d.txt#0001"]
        assert ".png (1)" in str(loaded.problems[0])

    def test_a_glob(self, folder):
        assert [p.id for p in load(f"{folder}/**/*.txt").passages] == ["a/deep/d.txt#0001", "b.txt#0001"]

    def test_a_list_counts_each_file_once(self, folder):
        ids = [p.id for p in load([folder / "b.txt", folder / "a", str(folder / "b.txt")]).passages]
        assert ids == ["b.txt#0001", "a/c.md#0001", "a/deep/d.txt#0001"]

    def test_two_names_that_are_not_unicode_have_two_ids(self, tmp_path):
        for name in (b"caf\xe9.txt", b"caf\xe8.txt"):
            Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("Text.")
        ids = [p.id for p in load(tmp_path).passages]
        assert len(set(ids)) == 2
        assert all(key.isprintable() and key.encode() for key in ids)

    def test_names_with_control_characters_have_usable_ids_of_their_own(self, tmp_path):
        names = ["a\nb.txt", "a\x01b.txt", "a b.txt", "a\\x01b.txt", "a\\b.txt", "\udce9.txt", "\\udce9.txt"]
        for name in names:
            write(tmp_path, name, "Text.")
        ids = {p.id for p in load(tmp_path).passages}
        assert len(ids) == len(names)
        assert all(key.isprintable() and clean(key) == key for key in ids)
        assert {"a\\x0ab.txt#0001", "a\\b.txt#0001", "\\udce9.txt#0001"} <= ids

    def test_ids_do_not_depend_on_the_working_folder(self, folder, monkeypatch):
        before = [p.id for p in load(folder).passages]
        monkeypatch.chdir(folder)
        assert [p.id for p in load(".").passages] == before

    @pytest.mark.parametrize("wrong", ["nowhere", "nothing/*.txt", []])
    def test_a_wrong_path_is_an_error_at_once(self, wrong):
        with pytest.raises(InputError, match=r"no file or folder|No file matches|nothing to load"):
            iter_passages(wrong)

    @pytest.mark.parametrize("wrong", [None, 5, [None], b"notes"])
    def test_what_is_no_path_is_an_error_at_once(self, wrong):
        with pytest.raises(InputError, match=r"strings or pathlib\.Path"):
            iter_passages(wrong)

    def test_passages_stream(self, tmp_path):
        write(tmp_path, "a.txt", "First.")
        write(tmp_path, "b.txt", "Second.")
        stream = iter_passages(tmp_path)
        assert next(stream).text == "First."
        (tmp_path / "b.txt").write_text("Changed.")
        assert next(stream).text == "Changed."
