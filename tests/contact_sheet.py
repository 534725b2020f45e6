"""Draws docs/images/spark.png, test drawings with what `spark` says about them: `python -m tests.contact_sheet`."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from embernet.data.synth import draw
from embernet.runtime import load

PAGE = Path(__file__).parent.parent / "docs" / "images" / "spark.png"
COLUMNS, ROWS, SIDE, MARGIN, TEXT_HEIGHT = 4, 4, 208, 16, 76
LETTERS = 31  # in a line
RIGHT, WRONG = (20, 110, 40), (180, 30, 30)


def main() -> None:
    model, font = load("spark"), ImageFont.load_default(14)
    width = COLUMNS * (SIDE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, ROWS * (SIDE + TEXT_HEIGHT + MARGIN) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for index in range(COLUMNS * ROWS):
        drawing = draw("test", index)
        image, question = model.encode(drawing.image), drawing.questions[0]
        said = (
            ("", model.caption(image).text, drawing.caption),
            (f"{question.prompt} ", model.ask(image, question.prompt).text, question.answer),
        )
        x = MARGIN + index % COLUMNS * (SIDE + MARGIN)
        y = MARGIN + index // COLUMNS * (SIDE + TEXT_HEIGHT + MARGIN)
        sheet.paste(drawing.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        y += SIDE + 4
        for asked, text, right in said:
            for line in textwrap.wrap(asked + text, LETTERS):
                pen.text((x, y), line, fill=RIGHT if text == right else WRONG, font=font)
                y += 17
    PAGE.parent.mkdir(exist_ok=True)
    sheet.save(PAGE, optimize=True)


if __name__ == "__main__":
    main()
