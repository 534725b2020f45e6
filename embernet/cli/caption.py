"""`embernet caption`: describe images, or what a camera sees."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from embernet.cli.answers import (
    STDIN,
    encode_image,
    expand_images,
    finish,
    load_model,
    print_stream,
    summary,
)
from embernet.cli.caption_frames import FrameRequest, caption_until_told_to_end
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
from embernet.runtime.result import result_object, with_image_time

_SOURCES = "--camera, --mjpeg or --watch"
_LIVE = "--camera or --mjpeg"
_LONGEST_INTERVAL_S = 7 * 24 * 3600  # the system waits for 24 days at most


def caption(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders or patterns; '-' reads one from stdin. With --camera: a device.",
            show_default=False,
        ),
    ] = None,
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
    camera: Annotated[
        bool, typer.Option("--camera", help="A camera: of a Raspberry Pi, or the device that is named (/dev/video0).")
    ] = False,
    camera_command: Annotated[
        str | None, typer.Option("--camera-command", help="A camera: a program that writes one image to stdout.")
    ] = None,
    mjpeg: Annotated[
        bool, typer.Option("--mjpeg", help="A stream of JPEG images on stdin; those that come too fast are skipped.")
    ] = False,
    watch: Annotated[
        Path | None, typer.Option("--watch", help="A folder: the images in it, and each that comes into it.")
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", help="Seconds from one image to the next, of a camera or a stream.")
    ] = 0.0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help=f"End after so many captions, with {_SOURCES}.")
    ] = None,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Leave out images of a camera that look like the last one.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="How much has to change for --if-changed, 0 to 1. Default: 0.02."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help=f"Append JSON lines to this file instead, with {_SOURCES}."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Keep the captioned images of a camera in this folder.")
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Describe images, or what a camera sees.

    A bad image does not stop the others; the command then ends with exit code 3.

    With --camera, --mjpeg or --watch it goes on until SIGTERM, Ctrl-C or --count, prints a line per image (with
    --json an object), and tries again what fails. With -o, a --watch that is started again goes on where it was.

    \b
    Examples:
      embernet caption photo.jpg
      embernet caption photos/ --jsonl > captions.jsonl
      embernet caption -m ./tiny.ember -p "What colour is the car?" car.png
      rpicam-still -n -o - | embernet caption -
      embernet caption --camera --interval 60 --if-changed -o captions.jsonl --save frames
      embernet caption --camera /dev/video0 --count 1
      embernet caption --watch incoming -o captions.jsonl
      rpicam-vid -n -t 0 --codec mjpeg -o - | embernet caption --mjpeg --json
    """
    from embernet.runtime.model import GenerationOptions

    if json and jsonl:
        raise typer.BadParameter("choose one of --json and --jsonl")
    threshold = _require_threshold(threshold, if_changed)
    only_live = {"--interval": interval, "--if-changed": if_changed, "--save": save}
    is_live = camera or camera_command is not None or mjpeg
    options = GenerationOptions(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if is_live or watch is not None:
        device = _require_one_source(images or [], camera, camera_command, mjpeg, watch)
        if not is_live:
            _require_unused(only_live, _LIVE)
        if not 0 <= interval <= _LONGEST_INTERVAL_S:
            raise typer.BadParameter(f"--interval must be seconds, from 0 to {_LONGEST_INTERVAL_S} (found {interval})")
        caption_until_told_to_end(
            FrameRequest(
                watch=watch,
                mjpeg=mjpeg,
                device=device,
                camera_command=camera_command,
                prompt=prompt,
                interval_s=interval,
                count=count,
                threshold=threshold,
                output=output,
                save=save,
                fail_fast=fail_fast,
                json=json or jsonl,
                quiet=quiet,
                verbose=verbose,
            ),
            options,
            model,
            threads=threads,
            context=context,
            hugepages=hugepages,
            spin=spin,
        )
        return
    _require_unused(only_live | {"--count": count, "--output": output}, _SOURCES)
    if not images:
        raise typer.BadParameter(f"name an IMAGE, or choose one of {_SOURCES}")
    paths = expand_images(images)
    loaded = load_model(model, quiet, threads=threads, context=context, hugepages=hugepages, spin=spin)
    text = loaded.prompt("caption") if prompt is None else prompt
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


def _require_one_source(
    images: list[str], camera: bool, camera_command: str | None, mjpeg: bool, watch: Path | None
) -> str | None:
    """Refuse several sources at once; the device of --camera, if one is named."""
    if (camera or camera_command is not None) + mjpeg + (watch is not None) > 1:
        raise typer.BadParameter(f"choose one of {_SOURCES}")
    takes_device = camera and camera_command is None
    if takes_device and len(images) == 1:
        return images[0]
    if images and not (mjpeg and images == [STDIN]):
        expected = "at most one device" if takes_device else "none"
        raise typer.BadParameter(f"no IMAGE goes with {_SOURCES} (found {' '.join(images)}, expected {expected})")
    return None


def _require_threshold(threshold: float | None, if_changed: bool) -> float | None:
    """The threshold that --if-changed means; None without."""
    if threshold is None and if_changed:
        from embernet.device.captioning import DEFAULT_THRESHOLD

        return DEFAULT_THRESHOLD
    if threshold is None:
        return None
    if not if_changed:
        raise typer.BadParameter("--threshold needs --if-changed")
    if not 0 <= threshold <= 1:
        raise typer.BadParameter(f"--threshold must be from 0 to 1 (found {threshold})")
    return threshold


def _require_unused(options: Mapping[str, object], needed: str) -> None:
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"{name} needs {needed}")
