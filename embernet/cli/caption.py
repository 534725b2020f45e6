"""`embernet caption`: describe images."""

from typing import Annotated

import typer

from embernet.cli.answers import (
    encode_image,
    expand_images,
    finish,
    load_model,
    print_stream,
    result_object,
    summary,
    with_image_time,
)
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
from embernet.cli.output import note, print_error, print_json
from embernet.errors import InputError


def caption(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files, folders or patterns; '-' reads one from stdin."),
    ],
    model: ModelOption = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="Ask this instead of the model's own.")] = None,
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
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per image and line.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first image that fails.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Describe images.

    A bad image does not stop the others; the command then ends with exit code 3.

    \b
    Examples:
      embernet caption photo.jpg
      embernet caption photos/ --jsonl > captions.jsonl
      embernet caption -m ./tiny.ember -p "What colour is the car?" car.png
      rpicam-still -n -o - | embernet caption -
    """
    from embernet.runtime.model import GenerationOptions

    if json and jsonl:
        raise typer.BadParameter("choose one of --json and --jsonl")
    paths = expand_images(images)
    loaded = load_model(model, quiet, threads=threads, context=context, hugepages=hugepages, spin=spin)
    text = loaded.prompt("caption") if prompt is None else prompt
    options = GenerationOptions(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    loaded.read_options(options)  # refuse them before an image takes its time
    results, failed, interrupted = [], 0, False
    for path in paths:
        try:
            image = encode_image(loaded, path, quiet)
            stream = loaded.ask(image, text, stream=True, **options)
        except InputError as error:
            if fail_fast or len(paths) == 1:
                raise
            print_error(str(error), error.hint, error.exit_code, json or jsonl)
            failed += 1
            continue
        if json or jsonl:
            answer = with_image_time(finish(stream), image)
            results.append(result_object(loaded, image, answer))
            if jsonl:
                print_json("embernet.caption/1", results.pop(), pretty=False)
        else:
            prefix = f"{path}: " if len(paths) > 1 else ""
            answer = with_image_time(print_stream(stream, quiet, prefix, no_stream), image)
        for warning in answer.warnings:
            note(warning, quiet)
        if verbose:
            note(summary(loaded, answer), quiet)
        interrupted = answer.finish_reason == "interrupted"
        if interrupted:
            break
    if json and paths == images and len(paths) == 1:
        print_json("embernet.caption/1", results[0])
    elif json:
        print_json("embernet.captions/1", {"results": results, "failed": failed})
    if interrupted:
        raise typer.Exit(130)
    if failed:
        raise InputError(f"{failed} of {len(paths)} images could not be captioned")
