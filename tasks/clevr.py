"""CLEVR and the sets built like it: Super-CLEVR, CLEVR-Math, and R3V's copy of CLEVR-Math.

Their files are {"info": ..., "questions": [...]}, a list, or a line each.
"""

from tasks import image_fields, plain, record_fields
from tasks.protocol import Protocol

SAMPLE = {
    "image_index": 0,
    "image_filename": "CLEVR_train_000000.png",
    "split": "train",
    "question": "Are there more big green things than large purple shiny cubes?",
    "answer": "yes",
    "question_family_index": 2,
}
SAMPLE_OF_R3V = {"filename": "CLEVR_train_006841.png", "question": "How many?", "answer": 3}

NAME_KEYS = ("image_filename", "filename")
FOLDERS = (*record_fields.USUAL_FOLDERS, "../images", "../clevr_math_imgs")


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a record whose picture has its name under a key of CLEVR's.

    CLEVR's pictures lie in ../images/train, those of other splits beside it.
    """
    if any(image_fields.has_content(record.get(key)) for key in record_fields.IMAGE_KEYS):
        return plain.read(record, where)
    key = next((key for key in NAME_KEYS if image_fields.has_content(record.get(key))), None)
    if key is None:
        return plain.read(record, where)
    renamed = {**record_fields.without(record, key), "image": record[key]}
    fields, meta = plain.read(renamed, where)
    split = str(record.get("split") or "")
    inner = (f"images/{split}", f"../images/{split}") if split.isalnum() else ()
    fields["folders"] = (*FOLDERS, *inner)
    return fields, meta


# After those of other sets, whose records may also name a picture so: tasks/layouts.py.
LAYOUTS = [({"image_filename"}, read), ({"filename", "question", "answer"}, read)]
PROTOCOL = Protocol(
    name="clevr",
    sample=SAMPLE,
)
