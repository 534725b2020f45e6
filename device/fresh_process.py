"""A process that comes to its first token and says what that took: `python -m embernet.device.fresh_process OPTIONS`.

`embernet bench --cold-start` starts it (start.py). It imports what an answer needs and nothing else.
"""

import json
import sys
import time

_RUNNING_NS = time.perf_counter_ns()
STAGES = ("interpreter_ms", "import_ms", "load_ms", "image_ms", "prefill_ms")


def main() -> None:
    """Print the times as JSON. OPTIONS: a JSON object, see `start.fresh_start`."""
    from embernet.errors import EmbernetError

    try:
        times = _first_token(**json.loads(sys.argv[1]))
    except EmbernetError as error:
        sys.stderr.write(str(error))
        sys.exit(error.exit_code)
    sys.stdout.write(json.dumps(times))


def _first_token(
    started_ns: int,
    bundle: str,
    threads: int | None,
    hugepages: bool,
    spin: bool,
    n_prompt: int | None,
    n_gen: int | None,
    image: str | None,
) -> dict[str, float | None]:
    marks = [started_ns, _RUNNING_NS]
    import embernet.runtime.session  # noqa: F401  (imports the engine, so that loading does not)
    from embernet.device.memory import memory_use
    from embernet.device.workload import choose_workload, first_token
    from embernet.runtime.image import load_image, preprocess
    from embernet.runtime.model import load

    marks.append(time.perf_counter_ns())
    model = load(bundle, threads=threads, hugepages=hugepages, spin=spin)
    marks.append(time.perf_counter_ns())
    work = choose_workload(model, n_prompt, n_gen, image)
    features = model.encode_pixels(preprocess(load_image(work.image).rgb, model.manifest.image))
    marks.append(time.perf_counter_ns())
    first_token(model.new_context(len(work.prompt), features, room=work.n_gen), work, features)
    marks.append(time.perf_counter_ns())
    times: dict[str, float | None] = {
        name: (end - begin) / 1e6 for name, begin, end in zip(STAGES, marks, marks[1:], strict=False)
    }
    use = memory_use()
    return times | {
        "total_ms": (marks[-1] - started_ns) / 1e6,
        "peak_rss_bytes": use.peak_resident_bytes if use else None,
        "proportional_bytes": use.proportional_bytes if use else None,
        "anonymous_bytes": use.anonymous_bytes if use else None,
    }


if __name__ == "__main__":
    main()
