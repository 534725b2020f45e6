"""What `caption`, `ask` and `chat` share: loading the model, finding images, printing an answer."""

import glob
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from embernet.cli.output import note, spinner
from embernet.errors import InputError
from embernet.image_files import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from embernet.runtime import Answer, AnswerStream, EncodedImage, Model

STDIN = "-"


def load_model(name: str | None, quiet: bool, **options: Any) -> "Model":
    """Load the model a user asked for, or the built-in one, with these options of `embernet.runtime.load`."""
    from embernet.runtime import load

    chosen = choose_model(name, quiet)
    with spinner(f"loading {chosen}", quiet):
        model = load(chosen, **options)
    for warning in model.warnings:
        note(warning, quiet)
    return model


def choose_model(name: str | None, quiet: bool) -> str:
    """The model a user asked for, or the built-in one; says which, and what to know before it is loaded."""
    from embernet.runtime.bundle import DEFAULT_MODEL
    from embernet.runtime.native_library import find_library

    if find_library() is None:
        note("installed without native operators (no compiler was found): answers are right, but slow", quiet)
    if name is None:
        note(f"using the built-in model {DEFAULT_MODEL!r} (choose another with -m)", quiet)
    return name or DEFAULT_MODEL


def expand_images(arguments: list[str]) -> list[str]:
    """Replace folders and patterns by the images in them; `-` stays."""
    images = []
    for argument in arguments:
        path = Path(argument)
        if not argument:
            raise InputError("the name of an image is empty")
        if argument.startswith(("http://", "https://")):
            raise InputError(
                f"{argument}: images are not fetched from the network", hint=f"curl -sL {argument} | embernet -"
            )
        if path.is_dir():
            found = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                raise InputError(f"{argument}: holds no images")
            images += found
        elif not path.exists() and glob.has_magic(argument):
            found = sorted(glob.glob(argument))  # noqa: PTH207  (absolute patterns too)
            if not found:
                raise InputError(f"{argument}: matches no file")
            images += found
        else:
            images.append(argument)
    return images


def encode_image(model: "Model", argument: str, quiet: bool) -> "EncodedImage":
    with spinner(f"looking at {argument}", quiet):
        return model.encode(sys.stdin.buffer if argument == STDIN else argument)


def print_stream(stream: "AnswerStream", quiet: bool, prefix: str = "", no_stream: bool = False) -> "Answer":
    """Print an answer as it comes. Ctrl-C ends it; what came so far is kept and marked as interrupted."""
    try:
        with spinner("reading the question", quiet):
            first = next(stream, "")
        typer.echo(prefix, nl=False)
        for piece in itertools.chain([first], stream):
            if not no_stream:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stream.close()
    answer = stream.answer
    typer.echo(answer.text if no_stream else "")
    return answer


def finish(stream: "AnswerStream") -> "Answer":
    """Generate an answer without printing it; Ctrl-C ends it."""
    try:
        return stream.finish()
    except KeyboardInterrupt:
        stream.close()
        return stream.answer


def summary(model: "Model", answer: "Answer") -> str:
    """One line for stderr: where the time went."""
    t, u = answer.timings, answer.usage
    speed = answer.tokens_per_second
    return (
        f"{model.manifest.name}: {u.image_tokens} image + {u.prompt_tokens} prompt tokens, image "
        f"{t.preprocess_ms + t.vision_ms:.0f} ms, prefill {t.prefill_ms:.0f} ms, {u.completion_tokens} new tokens "
        f"in {t.decode_ms:.0f} ms" + (f" ({speed:.0f} per second)" if speed else "")
    )
