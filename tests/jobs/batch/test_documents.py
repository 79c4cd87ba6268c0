"""Questions about documents: words read by OCR where none are given, and what is said where that cannot be."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import catalogue
from support.arrow import cell

from dray.jobs.batch.preflight import check
from dray.pipelines.config import parse_config
from dray.pipelines.errors import ModelError


@pytest.fixture
def documents(tmp_path):
    """A config of scanned pages without words."""
    case = catalogue.CASES["document-question-answering-ocr"]
    pages = [{"image": cell("", item["image"]), "question": item["question"]} for item in case.items()]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(pages), tmp_path / "in/pages.parquet")
    raw = {"task": case.task, "model": case.build(tmp_path / "model"), "input": {"path": str(tmp_path / "in")}}
    return parse_config({**raw, "output": {"path": str(tmp_path / "out")}})


HOW = "words are read from images with tesseract: apt install tesseract-ocr"


def test_without_the_program_it_is_said_how_to_install_it(documents, monkeypatch):
    pytesseract = pytest.importorskip("pytesseract")
    monkeypatch.setattr(pytesseract.pytesseract, "tesseract_cmd", "/nowhere/tesseract")
    with pytest.raises(ModelError, match=HOW):
        check(documents, dry=True)


def test_without_the_package_too(documents, monkeypatch):
    from transformers.pipelines import document_question_answering

    monkeypatch.setattr(document_question_answering, "TESSERACT_LOADED", False)
    with pytest.raises(ModelError, match=HOW):
        check(documents, dry=True)


@pytest.mark.skipif(bool(catalogue.missing("pytesseract", "tesseract")), reason="needs tesseract")
def test_with_both_the_job_may_start(documents):
    assert check(documents, dry=True).rows_left == 5


def test_broken_pictures_do_not_stop_a_job(documents, tmp_path):
    """Their words are given, so nothing has to be read."""
    words = [{"word": "total", "box": [0, 0, 10, 10]}, {"word": "62", "box": [20, 0, 30, 10]}]
    rows = [{"image": b"broken", "question": "what is it?", "word_boxes": words}] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/pages.parquet")
    assert check(documents, dry=True).rows_left == 3
