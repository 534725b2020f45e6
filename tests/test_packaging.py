"""What is installed, and what the light core imports."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "accelerate",
    "datasets",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "safetensors",
    "matplotlib",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the installed wheel, like site-packages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", folder, wheel]
    subprocess.run(command, check=True)
    return folder


def run(code: str, path: Path) -> None:
    """Run code that imports what is installed at `path`, and everything else as usual.

    -S keeps an editable installation of this checkout out, which would come first.
    """
    environment = {"PYTHONPATH": os.pathsep.join([str(path), sysconfig.get_path("purelib")])}
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=path.parent, env=environment)


def test_one_wheel_for_every_python(wheel):
    assert "-py3-none-linux_" in wheel.name


def test_without_a_compiler_it_installs_without_native_operators(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, env=os.environ | {"CXX": "/no/compiler"})
    (path,) = tmp_path.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(path).namelist())


def test_nothing_but_embernet_lands_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"embernet"}
    for expected in (
        "export/bundle.py",
        "runtime/bundle.py",
        "runtime/models/spark.ember/weights.bin",
        "runtime/models/spark.ember/README.md",
        "device/memory.py",
        "device/systemd/embernet-caption.service",
        "models/embernet/model.py",
        "py.typed",
    ):
        assert f"embernet/{expected}" in names
    assert "embernet/runtime/libembernet_ops.so" in names
    assert not any("tests" in name or "native/" in name for name in names)


def test_the_installed_package_is_whole(installed):
    run(
        "from embernet.runtime.native_library import find_library\n"
        f"assert str(find_library()).startswith({str(installed)!r})\n"
        "import embernet, embernet.runtime, embernet.export.bundle, embernet.device.memory, embernet.cli.app\n"
        f"assert embernet.__file__.startswith({str(installed)!r})\n"
        f"assert embernet.export.bundle.__file__.startswith({str(installed)!r})\n"
        "assert len(embernet.__path__) == 1",
        installed,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import embernet",
        "from embernet.runtime import load; load('{bundle}').ask('{photo}', 'w9', max_tokens=2)",
        "from embernet.runtime import Answer, Chat, EncodedImage, Model",
        "import embernet.cli.app, embernet.cli.export, embernet.device.memory",
        "from embernet.device.bench import run_bench; run_bench('{bundle}', repetitions=1, n_gen=2)",
        "import embernet.device.comparison",
        "import embernet.device.captioning, embernet.device.v4l2, embernet.device.watch, embernet.cli.caption_frames",
    ],
)
def test_the_light_core_needs_no_training_stack(installed, tiny_bundle, tmp_path, statement):
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    run(
        "import sys\n"
        f"for name in {HEAVY}: sys.modules[name] = None\n"  # importing one raises ImportError
        + statement.format(bundle=tiny_bundle, photo=photo),
        installed,
    )


def test_import_embernet_is_light(installed):
    code = "import sys, embernet\nassert not {'numpy', 'onnxruntime', 'PIL', 'typer'} & set(sys.modules)"
    run(code, installed)


def test_a_checkout_runs_without_being_installed():
    code = (
        "import embernet.runtime.bundle as b, embernet.export.weights\nassert b.__file__.endswith('runtime/bundle.py')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
