"""Shared fixtures: the golden model, a tokenizer for it, bundles of it, and a user directory that tests may fill."""

import io as streams
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from embernet.checkpoints import Checkpoint, open_checkpoint
from embernet.cli import app
from embernet.export.bundle import ExportOptions, export_bundle
from embernet.runtime.native_library import FUNCTION_BODIES, supported_isas

TINY = Path(__file__).parent / "fixtures" / "embernet_tiny"
EXAMPLES = Path(__file__).parent.parent / "examples"
IMAGE_TOKEN = 298
# What can compute a graph: the function bodies, and the native operators with the kernels that run here.
ENGINES = [FUNCTION_BODIES, *supported_isas()]


@pytest.fixture(autouse=True)
def _own_user_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERNET_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("EMBERNET_MODEL", "EMBERNET_DEBUG", "EMBERNET_JSON", "EMBERNET_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once with every engine."""
    monkeypatch.setenv("EMBERNET_ISA", request.param)
    return request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small matrices do not divide well, least of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def io() -> dict[str, np.ndarray]:
    """End-to-end arrays of the published implementation."""
    return dict(np.load(TINY / "io.npz"))


@pytest.fixture(scope="session")
def ops() -> dict[str, np.ndarray]:
    """Single-operator arrays of the published implementation."""
    return dict(np.load(TINY / "ops.npz"))


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    return open_checkpoint(TINY / "checkpoint.pt", TINY / "config.json")


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words w3..w297, so that any text of the tiny model can be read and written."""
    vocab = {
        "<pad>": 0,
        "<bos>": 1,
        "<eos>": 2,
        **{f"w{i}": i for i in range(3, 298)},
        "<image>": IMAGE_TOKEN,
        "<unk>": 299,
    }
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>", "<image>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Checkpoint, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model as a bundle with the default options and a tokenizer. Read only."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.ember"
    export_bundle(tiny_checkpoint, path, ExportOptions(tokenizer=str(tiny_tokenizer)))
    return path


@pytest.fixture(scope="session")
def exact_bundle(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model with float32 vision and embedding. Read only."""
    path = tmp_path_factory.mktemp("exact") / "exact.ember"
    export_bundle(tiny_checkpoint, path, ExportOptions(vision="float32", embedding="float32"))
    return path


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run the command line in this process -> exit code, stdout, stderr."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["embernet", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", _Stdin(stdin))
        with pytest.raises(SystemExit) as exit_:
            app.main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return run


class _Stdin:
    """Standard input that holds bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = streams.BytesIO(data)
        self._lines = iter(data.decode(errors="replace").splitlines(keepends=True))

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        return next(self._lines, "")


def one_sentence(err: str, start: str) -> None:
    """An error is one sentence, perhaps with one hint, and never a traceback."""
    lines = err.strip().splitlines()
    assert lines[0].startswith(f"embernet: {start}"), err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("try: ")), err
