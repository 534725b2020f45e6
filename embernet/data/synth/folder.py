"""Drawings as files: images and a LLaVA JSON, and a sheet to look at."""

import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from embernet.checkpoints import part_folder, require_new, write_text
from embernet.data.synth import DOMAINS, SynthDrawings, turns_of
from embernet.data.synth.camera import SIDE
from embernet.data.synth.drawing import Drawing

CONVERSATIONS = "conversations.json"
SHEET_DRAWINGS = 5 * len(DOMAINS)
_COLUMN, _TEXT_HEIGHT, _LINE, _MARGIN = SIDE + 46, 132, 12, 6
_CAPTION_INK, _QUESTION_INK = (0, 0, 0), (80, 80, 80)


def write_folder(
    output: str | os.PathLike[str],
    drawings: SynthDrawings,
    count: int,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Write images/ and `conversations.json`, whole or not at all. progress: drawings since it was last called.

    InputError if the folder exists and holds something.
    """
    output = Path(output)
    require_new(output)
    with part_folder(output) as (part, target):
        (part / "images").mkdir()
        records = []
        for index in range(count):
            drawing, name = drawings.drawing(index), f"images/{index:06}.png"
            drawing.image.save(part / name)
            conversations = []
            for number, (prompt, answer) in enumerate(turns_of(drawing, index)):
                value = prompt if number else f"<image>\n{prompt}"
                conversations += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
            record = {"id": f"{drawings.split}/{index}", "image": name, "domain": drawing.domain}
            records.append(record | {"conversations": conversations})
            progress(1)
        write_text(part / CONVERSATIONS, json.dumps(records, indent=1) + "\n")
        part.replace(target)


def write_contact_sheet(path: Path, drawings: SynthDrawings) -> None:
    """Write a PNG of the first SHEET_DRAWINGS drawings with their texts; with all domains, each is a column."""
    sheet = _contact_sheet([drawings.drawing(index) for index in range(SHEET_DRAWINGS)])
    with part_folder(path) as (part, target):
        # A sheet of noisy images is large; 256 colors show what there is to see.
        sheet.quantize(256, dither=Image.Dither.NONE).save(part / target.name, "PNG", optimize=True)
        (part / target.name).replace(target)
        part.rmdir()


def _contact_sheet(drawings: Sequence[Drawing]) -> Image.Image:
    columns = len(DOMAINS)
    rows = -(-len(drawings) // columns)
    height = SIDE + _TEXT_HEIGHT
    sheet = Image.new("RGB", (columns * _COLUMN + _MARGIN, rows * height + _MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, drawing in enumerate(drawings):
        x, y = _MARGIN + number % columns * _COLUMN, _MARGIN + number // columns * height
        sheet.paste(drawing.image, (x, y))
        y += SIDE + 2
        texts = [(drawing.caption, _CAPTION_INK)]
        texts += [(f"{question.prompt} {question.answer}", _QUESTION_INK) for question in drawing.questions]
        for text, ink in texts:
            for line in textwrap.wrap(text, 30):
                pen.text((x, y), line, fill=ink, font=font)
                y += _LINE
    return sheet
