"""Draws docs/images/spark.png, test drawings with what `spark` says about them: `python -m tests.contact_sheet`."""

import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from embernet.data.synth.version_1 import draw
from embernet.runtime import load

PAGE = Path(__file__).parent.parent / "docs" / "images" / "spark.png"
COLUMNS, ROWS, SIDE, MARGIN, TEXT_HEIGHT = 4, 3, 224, 16, 44
RIGHT, WRONG = (20, 110, 40), (180, 30, 30)


def main() -> None:
    model = load("spark")
    width = COLUMNS * (SIDE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, ROWS * (SIDE + TEXT_HEIGHT + MARGIN) + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index in range(COLUMNS * ROWS):
        drawing = draw("test", index)
        text = model.caption(drawing.image).text
        x = MARGIN + index % COLUMNS * (SIDE + MARGIN)
        y = MARGIN + index // COLUMNS * (SIDE + TEXT_HEIGHT + MARGIN)
        sheet.paste(drawing.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        words = re.sub(r" (above|to the|in the)\b", r"\n\1", text)
        pen.text((x, y + SIDE + 4), words, fill=RIGHT if text == drawing.caption else WRONG, font=font)
    PAGE.parent.mkdir(exist_ok=True)
    sheet.save(PAGE, optimize=True)


if __name__ == "__main__":
    main()
