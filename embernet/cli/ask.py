"""`embernet ask`: a question about an image."""

from typing import Annotated

import typer

from embernet.cli.answers import encode_image, finish, load_model, print_stream, summary
from embernet.cli.options import (
    ContextOption,
    HugepagesOption,
    JsonOption,
    MaxTokensOption,
    ModelOption,
    NoStreamOption,
    QuietOption,
    SeedOption,
    SpinOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    VerboseOption,
)
from embernet.cli.output import note, print_json
from embernet.runtime.result import result_object, with_image_time


def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file; '-' reads it from stdin.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
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
    no_stream: NoStreamOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask a question about an image.

    \b
    Examples:
      embernet ask scene.png "What color is the square?"
      embernet ask scene.png "How many stars are there?" --json
    """
    from embernet.runtime.model import GenerationOptions

    loaded = load_model(model, quiet, threads=threads, context=context, hugepages=hugepages, spin=spin)
    options = GenerationOptions(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    loaded.read_options(options)  # refuse them before an image takes its time
    encoded = encode_image(loaded, image, quiet)
    stream = loaded.ask(encoded, question, stream=True, **options)
    if json:
        answer = with_image_time(finish(stream), encoded)
        print_json("embernet.ask/1", {"question": question} | result_object(loaded, encoded, answer))
    else:
        answer = with_image_time(print_stream(stream, quiet, no_stream=no_stream), encoded)
    for warning in answer.warnings:
        note(warning, quiet)
    if verbose:
        note(summary(loaded, answer), quiet)
    if answer.finish_reason == "interrupted":
        raise typer.Exit(130)
