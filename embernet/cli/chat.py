"""`embernet chat`: a conversation about an image."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embernet.cli.answers import encode_image, finish, load_model, print_stream, summary
from embernet.cli.options import (
    ContextOption,
    HugepagesOption,
    JsonOption,
    MaxTokensOption,
    ModelOption,
    QuietOption,
    SeedOption,
    SpinOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    VerboseOption,
)
from embernet.cli.output import note, print_error, print_json
from embernet.errors import EmbernetError, InputError
from embernet.runtime.result import result_object, with_image_time

if TYPE_CHECKING:
    from embernet.runtime import Chat

_TASKS = {"/describe": "describe", "/ocr": "ocr", "/chart": "chart"}
_HELP = "/load IMAGE, /describe, /ocr, /chart, /clear, /quit; anything else is a question about the image"


def chat(
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="Image to begin with; /load changes it.")] = None,
    model: ModelOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    hugepages: HugepagesOption = False,
    spin: SpinOption = False,
    context: ContextOption = None,
    history: Annotated[bool, typer.Option(help="Let the model read the earlier turns.")] = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Talk about an image.

    Commands: /load IMAGE, /describe, /ocr, /chart, /clear, /quit. Everything else is a question. The three tasks begin
    a new conversation. With --json every answer is one line.

    \b
    Examples:
      embernet chat scene.png
      printf 'What shape is red?\\n/describe\\n' | embernet chat scene.png
    """
    from embernet.runtime.model import GenerationOptions

    loaded = load_model(model, quiet, threads=threads, context=context, hugepages=hugepages, spin=spin)
    options = GenerationOptions(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    loaded.read_options(options)  # refuse them before an image takes its time
    conversation: Chat | None = loaded.chat(encode_image(loaded, image, quiet), history=history) if image else None
    is_new_image, interactive = True, sys.stdin.isatty()
    if interactive:
        note(_HELP, quiet)
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and recall)
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        try:
            if line == "/quit":
                return
            if line == "/clear":
                if conversation is not None:
                    conversation.clear()
                continue
            if line.startswith("/load "):
                picture = encode_image(loaded, line.removeprefix("/load ").strip(), quiet)
                if conversation is None:
                    conversation = loaded.chat(picture, history=history)
                else:
                    conversation.load(picture)
                is_new_image = True
                note(f"{picture.name}: {picture.width} x {picture.height} pixels", quiet)
                continue
            if not line:
                continue
            if line.startswith("/") and line not in _TASKS:
                raise InputError(f"{line.split()[0]}: no such command ({_HELP})")
            if conversation is None:
                raise InputError("no image yet", hint="/load photo.jpg")
            question = line
            if line in _TASKS:
                question = loaded.prompt(_TASKS[line])
                conversation.clear()
            stream = conversation.ask(question, stream=True, **options)
            answer = finish(stream) if json else print_stream(stream, quiet)
            if is_new_image:
                answer, is_new_image = with_image_time(answer, conversation.image), False
            if json:
                values = {"question": question} | result_object(loaded, conversation.image, answer)
                print_json("embernet.ask/1", values, pretty=False)
            for warning in answer.warnings:
                note(warning, quiet)
            if verbose:
                note(summary(loaded, answer), quiet)
        except EmbernetError as error:
            # A wrong path or command must not end the conversation.
            print_error(str(error), error.hint, error.exit_code, json)
