# Every target sets itself up in a virtual environment in .venv; PYTHON chooses the interpreter, SEED what `spark` is
# made from.
PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
WHEELS_VENV := build/wheels-venv
NATIVE := CMakeLists.txt $(wildcard runtime/native/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint foreign-python full-size kill-training soak spark emulate emulate-icount wheels clean

demo: $(VENV)/installed  ## Caption and question the example images with the built-in model.
	$(BIN)/embernet caption examples/*.png
	$(BIN)/embernet ask examples/scene.png "what shape is black?" -v

test: $(VENV)/installed-dev lint foreign-python  ## Everything that must pass.
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && $(PIP) install -q --no-deps --no-build-isolation -C wheel.cmake=false --target build/types .
	MYPYPATH=build/types $(BIN)/mypy --cache-dir build/mypy -p benchmarks -p embernet -p wheels

foreign-python: $(VENV)/installed-dev  # For one test more, where it can be made: root, mmdebstrap, 400 MB of disk.
	$(BIN)/python -m embernet.device.emulation python || echo "no arm64 Python: it is not tested as a whole"

full-size: $(VENV)/installed-dev  ## The 840.8 M parameter model, start to end: 4 GB of disk, some minutes.
	$(BIN)/python -m pytest -m full_size -s

kill-training: $(VENV)/installed-dev  ## A training run that is killed ten times at random moments: a minute.
	$(BIN)/python -m pytest -m killed

soak: $(VENV)/installed-dev  ## 1,000 images each of a folder and a camera that fail now and then: some minutes.
	$(BIN)/python -m pytest -m soak -s

spark: $(VENV)/installed-dev  ## The small model of eight domains from nothing, with its card: hours, 12 GB of disk.
	$(BIN)/embernet train spark -o build/spark/checkpoint --seed $(SEED)
	$(BIN)/embernet export build/spark/checkpoint -o build/spark/spark.ember
	$(BIN)/embernet eval build/spark/spark.ember --against build/spark/checkpoint --data synth --count 2400 -o build/spark/eval.json
	$(BIN)/embernet card build/spark/spark.ember --eval build/spark/eval.json --limits docs/spark-limits.md --license mit \
		-o build/spark/spark.ember/README.md

emulate: $(VENV)/installed-dev wheels  ## The wheel on an emulated board of 448 MB: root, 8 GB of disk.
	$(BIN)/python -m embernet.device.emulation board --full-size

emulate-icount: $(VENV)/installed-dev  ## Tokens and instruction counts on an emulated Cortex-A53: root, 8 GB of disk.
	$(BIN)/python -m pytest -m emulated
	$(BIN)/python -m embernet.device.emulation --full-size

wheels: $(WHEELS_VENV)/installed  ## Wheels for x86-64 and the Raspberry Pi, checked, in dist/: some minutes, on x86-64.
	$(WHEELS_VENV)/bin/python -m wheels

$(VENV)/installed: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml tests/constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c tests/constraints.txt -e ".[dev]"
	touch $@

$(WHEELS_VENV)/installed: wheels/requirements.txt
	$(PYTHON) -m venv $(WHEELS_VENV)
	$(WHEELS_VENV)/bin/python -m pip --disable-pip-version-check install -r $<
	touch $@

clean:
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
