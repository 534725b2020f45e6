"""Compare our int8 image side with what onnxruntime.quantization makes of the float32 one.

    embernet export full -o full.ember
    embernet export full -o full32.ember --vision float32
    python -m benchmarks.vision --model full.ember --float32 full32.ember [IMAGE...]

Both bundles must be of one checkpoint. Times are of whole images, one at a time, in turns; cosines are of the image
features to those of the float32 bundle. Needs the package `onnx`; about a minute for the full-size model.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, Record, program_parser, say, turns
from embernet.device.dynamic_int8 import quantize_vision
from embernet.runtime.bundle import WEIGHTS_FILE, Bundle, open_bundle
from embernet.runtime.image import load_image, preprocess
from embernet.runtime.native_library import isa_in_use
from embernet.runtime.session import EngineOptions, Graph

OURS, REFERENCE = "embernet int8", "float32"
# Options of quantize_dynamic: as it comes, and as ONNX Runtime advises where there are no VNNI instructions.
QUANTIZED: dict[str, dict[str, bool]] = {
    "quantize_dynamic": {},
    "quantize_dynamic, per channel, reduced range": {"per_channel": True, "reduce_range": True},
}


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of all numbers as one vector each."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def graphs(bundle: Bundle, float32: Bundle, folder: Path, threads: int) -> dict[str, Graph]:
    """The image side of both bundles, and the quantised ones, which are written to `folder`."""
    engine = EngineOptions(threads)
    found = {
        name: Graph(b.path / "vision.onnx", b.path / WEIGHTS_FILE, engine)
        for name, b in ((OURS, bundle), (REFERENCE, float32))
    }
    for number, (name, options) in enumerate(QUANTIZED.items()):
        path = folder / f"{number}.onnx"
        quantize_vision(float32.path, path, **options)
        found[name] = Graph(path, path, engine)  # its weights are inside
    return found


def encode(graph: Graph, pixels: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return graph.run("image_features", shape, {"pixel_values": pixels})


def main() -> None:
    parser = program_parser(__doc__, rounds=10)
    parser.add_argument("--model", type=Path, required=True, help="bundle")
    parser.add_argument("--float32", type=Path, required=True, help="bundle of the same checkpoint, --vision float32")
    parser.add_argument("-t", "--threads", type=int, default=1, help="of each session")
    parser.add_argument("images", nargs="*", type=Path, default=default_images(), help="images (default: the tree's)")
    arguments = parser.parse_args()
    bundle, float32 = open_bundle(arguments.model), open_bundle(arguments.float32)
    require_one_checkpoint(bundle, float32)
    config = bundle.manifest.config
    shape = (1, config["num_image_tokens"], config["hidden_size"])
    pixels = {path.name: preprocess(load_image(path).rgb, bundle.manifest.image) for path in arguments.images}
    with tempfile.TemporaryDirectory() as folder:
        contestants = graphs(bundle, float32, Path(folder), arguments.threads)
        record = Record("vision")
        cosines: dict[str, dict[str, float]] = {name: {} for name in contestants}
        for image, values in pixels.items():
            expected = encode(contestants[REFERENCE], values, shape)
            for name, graph in contestants.items():
                cosines[name][image] = cosine(encode(graph, values, shape), expected)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        values = next(iter(pixels.values()))
        for _, name in turns(list(contestants), arguments.rounds):
            started = time.perf_counter()
            encode(contestants[name], values, shape)
            times[name].append((time.perf_counter() - started) * 1e3)
    measurements: list[dict[str, Any]] = []
    for name, milliseconds in times.items():
        measurements.append({"contestant": name, "milliseconds": milliseconds, "cosines": cosines[name]})
        say(f"{name}: {statistics.median(milliseconds):.1f} ms, least cosine {min(cosines[name].values()):.5f}")
    record.save(arguments.output, threads=arguments.threads, isa=isa_in_use(), measurements=measurements)


def default_images() -> list[Path]:
    return sorted(path for folder in ("examples", "docs/images") for path in (ROOT / folder).glob("*.png"))


def require_one_checkpoint(bundle: Bundle, float32: Bundle) -> None:
    """SystemExit unless the bundles have one configuration, and an int8 and a float32 image side."""
    if bundle.manifest.config != float32.manifest.config:
        raise SystemExit(f"{float32.path}: is not of the same checkpoint as {bundle.path}")
    found = (bundle.manifest.precision["vision"], float32.manifest.precision["vision"])
    if found != ("int8", "float32"):
        raise SystemExit(f"the bundles' image sides must be int8 and float32 (found {' and '.join(found)})")


if __name__ == "__main__":
    main()
