"""Documents for --mode qa: records of a page's text and its pictures, and no question.

{"id": "1", "images": ["page1.png", "page2.png"], "text": "Invoice No. 7 ..."}
"""

from pathlib import Path

import data
import tasks
from distilling import filters
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from tasks import drawing, files, folders, image_fields, images, record_fields
from tasks.example import Example
from tasks.stored import Store

# Where a page's text stands: OCR output, or TabMWP's tables. A list is one text a page.
TEXT_KEYS = ("text", "ocr", "ocr_text", "page_text", "document", "table", "markdown")


def read(spec: str, number: int | None, seed: int, level: int, bad: BadRecords) -> list[Example]:
    """Read documents as Examples without a question; their text is meta["text"].

    number: the first so many. Of a toy set of shapes, the scene's rows are the text.
    UserError for a record without a text.
    """
    tasks.must_exist(spec)
    if data.is_toy(spec):
        stream = tasks.read(spec, seed, level, teacher="gold")
        return [of_toy(example, spec) for example in data.head(stream, number or 1024)]
    store, documents, names = Store(), [], []
    for file, place, name, record in folders.rows_in(spec, "images and text", True, bad):
        with bad.checking(f"{file}:{place}", name):
            documents.append(to_document(record, file, place, name))
            names.append(name)
            images.keep_embedded(documents[-1], store)
        if number and len(documents) == number:
            break
    bad.must_leave(documents)
    files.tell_apart(documents, names, spec)
    return images.check_images(documents, bad=bad)


def to_document(record: object, file: Path, place: object, name: str) -> Example:
    """Make an Example of one record."""
    where = f"{file}:{place}"
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object with images and text; correct the record")
    record = image_fields.gathered(record, where)
    key = next((key for key in TEXT_KEYS if record.get(key)), None)
    if key is None:
        raise UserError(
            f"{where}: no text to ask about; give the page's text as `text`, or delete the record"
        )
    pages = record[key] if isinstance(record[key], list) else [record[key]]
    text = "\n\n".join(record_fields.needed({key: page}, key, where) for page in pages)
    given = image_fields.as_list(image_fields.pictures_of(record, where))
    found = [images.locate(image, file, where, record_fields.USUAL_FOLDERS) for image in given]
    id = record_fields.label_of(record, "id", where) or name
    meta = {
        **{key: record[key] for key in ("source", "data_source", "dataset") if key in record},
        "text": text,
    }
    return Example(id, found, "", "", meta=meta, source=where)


def of_toy(example: Example, spec: str) -> Example:
    """Make a document of a toy scene: its rows in words."""
    scene = filters.scene_of(example)
    if scene is None:
        raise UserError(
            f"--mode qa: {spec} has no text; name count or spatial, or a file of documents"
        )
    rows = drawing.rows_in_words([tuple(o) for o in scene], {})
    text = "\n".join(["A picture in four rows.", *rows])
    return Example(
        example.id,
        example.images,
        example.question,
        example.answer,
        solution=example.solution,
        task=example.task,
        meta={**example.meta, "text": text},
        source=example.source,
    )
