"""Options and arguments that several commands share, so that each means the same everywhere."""

from typing import Annotated, TypeAlias

import typer

ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option("-m", "--model", help="Bundle: a directory or a name. Default: the built-in 'spark'."),
]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option("-t", "--threads", min=1, max=256, help="Threads of the engine. Default: one per core.")
]
HugepagesOption: TypeAlias = Annotated[
    bool, typer.Option("--hugepages", help="Copy the weights into huge pages: on servers, somewhat faster.")
]
SpinOption: TypeAlias = Annotated[
    bool,
    typer.Option("--spin", help="Let threads wait without sleeping: faster if nothing else wants the cores."),
]
ContextOption: TypeAlias = Annotated[
    int | None, typer.Option("--context", min=1, help="Most positions of a sequence. Default: all the model knows.")
]
MaxTokensOption: TypeAlias = Annotated[
    int | None, typer.Option("-n", "--max-tokens", min=1, help="Most new tokens. Default: the model's own.")
]
TemperatureOption: TypeAlias = Annotated[
    float | None, typer.Option("--temperature", min=0.0, help="0 = always the most likely token (default).")
]
TopKOption: TypeAlias = Annotated[
    int | None, typer.Option("--top-k", min=0, help="Sample among the k most likely tokens, 0 = all.")
]
TopPOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--top-p", min=0.0, max=1.0, help="Sample among the tokens that make up this probability."),
]
SeedOption: TypeAlias = Annotated[int | None, typer.Option("--seed", min=0, help="Make sampling repeatable.")]
NoStreamOption: TypeAlias = Annotated[
    bool, typer.Option("--no-stream", help="Print an answer when it is complete, not as it comes.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="No notes and no progress on stderr.")]
VerboseOption: TypeAlias = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Say on stderr where the time went.")
]
