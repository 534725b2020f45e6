"""The command line as a user drives it: whole output, exit codes, streams, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embernet import __main__
from embernet.cli import app
from embernet.cli.output import format_bytes
from tests.conftest import TINY, one_sentence

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


# --- caption and ask ------------------------------------------------------------------------------------------------


def test_caption_prints_the_answer_and_nothing_else_on_stdout(cli, tiny_bundle, photo):
    code, out, err = cli("caption", photo, "-m", tiny_bundle, "-n", 3)
    assert code == 0
    assert len(out.split()) <= 3
    assert out.endswith("\n")
    assert "does not know" in err


def test_an_image_alone_is_a_caption(cli, tiny_bundle, photo, monkeypatch):
    monkeypatch.setenv("EMBERNET_MODEL", str(tiny_bundle))
    expected = cli("caption", photo, "-n", 3, "-q")
    assert cli(photo, "-n", 3, "-q") == expected
    assert cli("-n", 3, "-q", photo) == expected


def test_options_come_from_the_environment_too(cli, tiny_bundle, photo, monkeypatch):
    monkeypatch.setenv("EMBERNET_MODEL", str(tiny_bundle))
    monkeypatch.setenv("EMBERNET_MAX_TOKENS", "2")
    _, out, _ = cli("ask", photo, "w9", "--json")
    assert json.loads(out)["usage"]["completion_tokens"] <= 2


def test_caption_json_is_the_documented_object(cli, tiny_bundle, photo):
    code, out, _ = cli("caption", photo, "-m", tiny_bundle, "-n", 4, "--json")
    result = json.loads(out)
    assert code == 0
    assert next(iter(result)) == "schema"
    assert result["schema"] == "embernet.caption/1"
    assert result["model"]["name"] == "tiny"
    assert result["model"]["family"] == "embernet"
    assert result["input"]["path"] == str(photo)
    assert (result["input"]["width"], result["input"]["height"]) == (60, 40)
    assert len(result["input"]["sha256"]) == 64
    assert result["finish_reason"] in ("stop", "length")
    assert result["usage"]["image_tokens"] == 16
    timings = result["timings"]
    stages = ("preprocess_ms", "vision_ms", "prefill_ms", "decode_ms")
    assert timings["total_ms"] == pytest.approx(sum(timings[stage] for stage in stages))
    assert timings["load_ms"] > 0
    assert timings["vision_ms"] > 0
    assert sum(result["routing"]["share"].values()) == pytest.approx(1)
    assert result["routing"]["experts"][0] == "vision_ocr"


def test_many_images_one_line_each(cli, tiny_bundle, photo, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "other.jpg")
    code, out, _ = cli("caption", tmp_path, "-m", tiny_bundle, "-n", 2, "--jsonl")
    assert code == 0
    assert [json.loads(line)["input"]["path"] for line in out.splitlines()] == [
        str(tmp_path / "other.jpg"),
        str(photo),
    ]
    code, out, _ = cli("caption", f"{tmp_path}/*.png", photo, "-m", tiny_bundle, "-n", 2, "-q")
    assert [line.split(":")[0] for line in out.splitlines()] == [str(photo), str(photo)]


def test_a_bad_image_does_not_stop_the_others(cli, tiny_bundle, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, out, err = cli("caption", tmp_path / "bad.png", photo, "-m", tiny_bundle, "-n", 2, "-q")
    assert code == 3
    assert len(out.splitlines()) == 1
    assert "bad.png: not an image (the file is empty)" in err
    assert "1 of 2 images could not be captioned" in err
    code, out, err = cli("caption", tmp_path / "bad.png", photo, "-m", tiny_bundle, "--json", "-q")
    assert code == 3
    assert json.loads(out)["failed"] == 1
    assert [json.loads(line)["code"] for line in err.splitlines()] == [3, 3]
    code, out, _ = cli("caption", tmp_path / "bad.png", photo, "-m", tiny_bundle, "--fail-fast")
    assert (code, out) == (3, "")


def test_a_folder_gives_its_image_files_and_always_the_same_form(cli, tiny_bundle, photo, tmp_path):
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "folder.png").mkdir()
    code, out, _ = cli("caption", tmp_path, "-m", tiny_bundle, "-n", 2, "--json")
    assert code == 0
    assert json.loads(out)["schema"] == "embernet.captions/1"
    assert [result["input"]["path"] for result in json.loads(out)["results"]] == [str(photo)]


def test_images_from_stdin(cli, tiny_bundle, photo):
    from_file = cli("caption", photo, "-m", tiny_bundle, "-n", 3, "-q")
    assert cli("caption", "-", "-m", tiny_bundle, "-n", 3, "-q", stdin=photo.read_bytes()) == from_file


def test_ask_streams_the_same_text_as_it_prints_at_once(cli, tiny_bundle, photo):
    streamed = cli("ask", photo, "w20", "-m", tiny_bundle, "-n", 6, "-q")
    assert cli("ask", photo, "w20", "-m", tiny_bundle, "-n", 6, "-q", "--no-stream") == streamed
    assert streamed[0] == 0


def test_sampling_is_repeatable(cli, tiny_bundle, photo):
    options = ("-m", tiny_bundle, "-n", 6, "-q", "--temperature", 1.0)
    assert cli("ask", photo, "w20", *options, "--seed", 1) == cli("ask", photo, "w20", *options, "--seed", 1)


def test_verbose_says_where_the_time_went(cli, tiny_bundle, photo):
    _, _, err = cli("caption", photo, "-m", tiny_bundle, "-n", 3, "-v")
    assert "tiny: 16 image + " in err
    assert "prefill" in err


# --- chat -----------------------------------------------------------------------------------------------------------


def test_chat_reads_questions_and_commands_from_a_pipe(cli, tiny_bundle, photo):
    lines = f"w9\n/load {photo}\nw9 w10\n\n/describe\n/ocr\n/chart\n/clear\n/dance\n/load nothing.png\nw9\n/quit\nw9\n"
    code, out, err = cli("chat", "-m", tiny_bundle, "-n", 2, "--json", "-q", stdin=lines.encode())
    assert code == 0
    results = [json.loads(line) for line in out.splitlines()]
    questions = [result["question"] for result in results]
    assert questions[0] == "w9 w10"
    assert questions[1].startswith("Describe this image in detail")
    assert questions[2].startswith("Extract and transcribe")
    assert questions[3].startswith("Analyse this chart")
    assert questions[4:] == ["w9"]
    assert [result["timings"]["vision_ms"] > 0 for result in results] == [True, False, False, False, False]
    assert "no image yet" in err
    assert "/dance: no such command" in err
    assert "nothing.png: no such file" in err
    assert "Traceback" not in err


def test_chat_ends_at_the_end_of_its_input(cli, tiny_bundle, photo):
    code, out, _ = cli("chat", photo, "-m", tiny_bundle, "-n", 2, "-q", stdin=b"w9\nw10\n")
    assert code == 0
    assert len(out.splitlines()) == 2


# --- export, verify, info, init -------------------------------------------------------------------------------------


def test_export_then_verify_then_info(cli, tmp_path):
    output = tmp_path / "x.ember"
    arguments = (TINY / "checkpoint.pt", "-o", output, "--target", "onnx", "--config", TINY / "config.json")
    code, out, err = cli("export", *arguments, "--check", "--vision", "float32", "--embedding", "float32")
    assert code == 0
    assert "ternary" in out
    assert "3.09 bits per weight" in out
    assert "cosine 1.000000, greedy agreement 100.0%" in err
    assert "no tokenizer" in err
    code, out, _ = cli("verify", output)
    assert (code, "ok (4 files" in out) == (0, True)
    code, out, _ = cli("info", output, "--json")
    bundle = json.loads(out)
    code, out, _ = cli("info", TINY / "checkpoint.pt", "--config", TINY / "config.json", "--json")
    checkpoint = json.loads(out)
    assert bundle["parameters"] == checkpoint["parameters"]
    assert bundle["parameters"]["total"] == 361_192
    assert bundle["quantizer"] == checkpoint["quantizer"]
    assert checkpoint["quantizer"]["levels"]["zero"] > 0
    assert cli("info", output)[0] == 0


def test_export_json_holds_sizes_and_the_check(cli, tmp_path, photo):
    arguments = (TINY / "checkpoint.pt", "-o", tmp_path / "x.ember", "--config", TINY / "config.json")
    code, out, _ = cli("export", *arguments, "--check-image", photo, "--json", "-q")
    report = json.loads(out)
    assert code == 0
    assert report["schema"] == "embernet.export/1"
    assert report["check"]["passed"]
    assert report["check"]["cases"][0]["image"] == str(photo)
    assert report["bytes"]["total"] == sum(report["files"].values())


def test_export_with_flags_instead_of_a_config(cli, tmp_path):
    checkpoint = TINY / "checkpoint.pt"
    code, _, err = cli("export", checkpoint, "-o", tmp_path / "x.ember")
    assert code == 3
    one_sentence(err, f"{checkpoint}: num_attention_heads cannot be told from the tensors")
    flags = ("--heads", 4, "--vision-heads", 4, "--weight-quantizer", "absmean", "--activation-bits", 4)
    assert cli("export", checkpoint, "-o", tmp_path / "x.ember", *flags, "-q")[0] == 0
    manifest = json.loads((tmp_path / "x.ember" / "manifest.json").read_text())
    assert manifest["quantizer"]["activation_bits"] == 4


def test_init_writes_a_checkpoint_that_exports(cli, tmp_path):
    from tests.test_checkpoints import small_config

    (tmp_path / "small.json").write_text(json.dumps({"family": "embernet"} | small_config()))
    code, out, _ = cli("init", tmp_path / "small.json", "-o", tmp_path / "new", "--seed", 5, "--json")
    assert code == 0
    assert json.loads(out)["seed"] == 5
    assert cli("export", tmp_path / "new", "-o", tmp_path / "new.ember", "--check", "-q")[0] == 0
    code, _, err = cli("init", "huge", "-o", tmp_path / "x")
    assert code == 3
    one_sentence(err, "unknown preset 'huge'")


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["caption", "nothing.png", "-m", "{bundle}"], 3, "nothing.png: no such file"),
        (["caption", "https://example.com/cat.jpg"], 3, "https://example.com/cat.jpg: images are not fetched"),
        (["caption", "*.nope", "-m", "{bundle}"], 3, "*.nope: matches no file"),
        (["caption", "", "-m", "{bundle}"], 3, "the name of an image is empty"),
        (["caption", "two\nlines.png", "-m", "{bundle}"], 3, "two\\nlines.png: no such file"),
        (["ask", "{photo}", "hi", "-m", "sprak"], 4, "sprak: no bundle of this name"),
        (["ask", "{photo}", "hi", "-m", "{photo}"], 4, "{photo}: not a bundle"),
        (["ask", "{photo}", "w9 " * 400, "-m", "{bundle}"], 3, "the question does not fit the context"),
        (["ask", "{photo}", "w9", "-m", "{bundle}", "--context", "9999"], 3, "context must be from 1 to 256"),
        (["ask", "nothing.png", "w9", "-m", "{bundle}", "--top-p", "0"], 3, "top_p must"),
        (["verify", "nothing.ember"], 4, "nothing.ember: no such bundle"),
        (["info", "nothing.pt"], 4, "nothing.pt: no bundle of this name"),
        (["export", "nothing.pt", "-o", "x.ember"], 3, "nothing.pt: no such checkpoint"),
        (["export", "{photo}", "-o", "x.ember"], 3, "{photo}: not a"),
        (["export", "{checkpoint}", "-o", "{photo}", "--heads", "4", "--vision-heads", "4"], 3, "{photo}: exists"),
        (
            [
                "export",
                "{checkpoint}",
                "-o",
                "x.ember",
                "--heads",
                "4",
                "--vision-heads",
                "4",
                "--activation-bits",
                "3",
            ],
            3,
            "{checkpoint}: activation_bits must be 8 or 4",
        ),
        (
            ["export", "{checkpoint}", "-o", "x.ember", "--heads", "4", "--vision-heads", "4", "--tokenizer", "no"],
            3,
            "no:",
        ),
    ],
)
def test_errors_are_one_sentence_with_the_right_code(
    cli, tiny_bundle, photo, tmp_path, monkeypatch, arguments, code, start
):
    monkeypatch.chdir(tmp_path)
    places = {"bundle": tiny_bundle, "photo": photo, "checkpoint": TINY / "checkpoint.pt"}
    found, out, err = cli(*(argument.format(**places) for argument in arguments))
    assert (found, out) == (code, "")
    one_sentence(
        err.removeprefix("embernet: using the built-in model 'spark' (choose another with -m)\n"),
        start.format(**places),
    )
    found, _, err = cli(*(argument.format(**places) for argument in arguments), "--json", "-q")
    error = json.loads(err)
    assert error["schema"] == "embernet.error/1"
    assert (found, error["code"]) == (code, code)
    assert not (tmp_path / "x.ember").exists()


@pytest.mark.parametrize("arguments", [["caption"], ["frobnicate"], ["ask", "x.png"], ["caption", "x.png", "--tpyo"]])
def test_wrong_usage_ends_with_2(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: embernet" in err


@pytest.mark.parametrize("arguments", [["caption", "--json", "--tpyo"], ["caption", "x.png", "--json", "--jsonl"]])
def test_wrong_usage_is_json_where_json_was_asked_for(cli, arguments):
    code, _, err = cli(*arguments)
    assert code == 2
    assert json.loads(err)["code"] == 2


@pytest.mark.parametrize(("value", "is_json"), [("0", False), ("false", False), ("1", True)])
def test_a_switch_in_the_environment_has_a_value(cli, monkeypatch, value, is_json):
    monkeypatch.setenv("EMBERNET_JSON", value)
    monkeypatch.setenv("EMBERNET_DEBUG", "0")
    code, _, err = cli("verify", "nothing.ember")
    assert code == 4
    assert err.startswith("{") == is_json


def test_too_little_memory_ends_with_5(cli, tiny_bundle, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("embernet.runtime.bundle.open_bundle", fail)
    code, _, err = cli("verify", tiny_bundle)
    assert code == 5
    one_sentence(err, "there is not enough memory")


def test_a_missing_extra_says_how_to_install_it(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "x.pt").write_bytes(b"")
    code, _, err = cli("export", tmp_path / "x.pt", "-o", tmp_path / "x.ember")
    assert code == 6
    assert "pip install 'embernet[export]'" in err


def test_a_tokenizer_from_the_hub_without_network(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    arguments = (TINY / "checkpoint.pt", "-o", tmp_path / "x.ember", "--config", TINY / "config.json")
    code, _, err = cli("export", *arguments, "--tokenizer", "someone/some-model@main")
    assert code == 7
    one_sentence(err, "someone/some-model@main: tokenizer.json cannot be fetched (offline")


def test_a_tokenizer_from_the_hub(cli, tmp_path, tiny_tokenizer, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo: str, name: str, revision: str | None) -> str:
        asked.append((repo, name, revision))
        return str(tiny_tokenizer)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    arguments = (TINY / "checkpoint.pt", "-o", tmp_path / "x.ember", "--config", TINY / "config.json")
    assert cli("export", *arguments, "--tokenizer", "someone/some-model@v1")[0] == 0
    assert asked == [("someone/some-model", "tokenizer.json", "v1")]
    assert (tmp_path / "x.ember" / "tokenizer.json").exists()


def test_debug_shows_the_traceback(cli, monkeypatch):
    monkeypatch.setenv("EMBERNET_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["embernet", "verify", "nothing"])
    with pytest.raises(Exception, match="no bundle of this name"):
        app.main()


def test_version(cli):
    from embernet import __version__

    assert cli("--version") == (0, f"embernet {__version__}\n", "")


# --- processes ------------------------------------------------------------------------------------------------------


def embernet(*arguments: object, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "embernet", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell starts its background jobs, perhaps this test run, with Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=environment, **pipes | options)
    finally:
        signal.signal(signal.SIGINT, before)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['embernet', 'caption', '--help']\n"
        "from embernet.cli.app import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnxruntime', 'numpy', 'PIL', 'tokenizers', 'transformers', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_ctrl_c_ends_with_130_and_without_a_traceback(tiny_bundle, photo):
    # A prompt on a pipe that stays open: the process waits for input when the signal comes.
    process = embernet("chat", photo, "-m", tiny_bundle, "-n", 1, stdin=subprocess.PIPE)
    process.stdin.write(b"w9\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_ctrl_c_during_an_answer_keeps_what_was_written(tiny_bundle, photo, tmp_path):
    # 220 tokens of the tiny model take long enough to be interrupted; the context holds 256.
    many = tmp_path / "many"
    many.mkdir()
    for i in range(60):
        (many / f"{i:02}.png").write_bytes(photo.read_bytes())
    process = embernet("caption", many, "-m", tiny_bundle, "-n", 220, "--jsonl", "-q", "--temperature", 1, "--seed", 0)
    first = json.loads(process.stdout.readline())
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first["finish_reason"] in ("stop", "length")
    assert all(json.loads(line)["schema"] == "embernet.caption/1" for line in out.splitlines())
    assert b"Traceback" not in err


def test_a_closed_pipe_ends_quietly(tiny_bundle, photo):
    process = embernet("caption", *[photo] * 20, "-m", tiny_bundle, "-n", 2, "-q")
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


def test_closed_streams_are_no_error(tiny_bundle, photo):
    command = f"{sys.executable} -m embernet caption {photo} -m {tiny_bundle} -n 2"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        subprocess.run(["sh", "-c", f"{command} {closed}"], env=environment, check=True, capture_output=True)


def test_ctrl_c_while_it_starts_ends_with_130(monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "main", interrupted)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 130


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_234_567, "1.23 MB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (999_900_000, "1 GB"),
        (1.2345e12, "1,234 GB"),
    ],
)
def test_sizes_are_never_powers_of_ten(count, text):
    assert format_bytes(count) == text


def test_a_bundle_whose_path_is_no_text_is_shown(cli, tiny_bundle, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.ember"))
    path.symlink_to(tiny_bundle)
    code, out, err = cli("info", path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path}/caf\\udce9.ember: bundle of the embernet family\n")
