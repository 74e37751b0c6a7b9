# Short names for what CMake, pytest and the scripts do. `make` builds umblockd and umctl.
.PHONY: all deps test demo bench format tidy clean

all:
	cmake --preset release
	cmake --build build/release --target umblockd umctl

# Debian packages for building, testing and the demo (root or sudo).
deps:
	ci/install_packages.sh

# All tests, as in CI. `ci/run_stages.py --list` names the parts, which can be run alone.
test: deps
	ci/run_stages.py

# Two nodes, one replicated volume, real software built on it (needs root).
demo: deps all
	scripts/demo.sh

bench:
	cmake --preset release
	cmake --build build/release
	bench/run --build build/release

format:
	git ls-files '*.cc' '*.h' | xargs clang-format-19 -i

tidy:
	ci/run_stages.py asan tidy

clean:
	rm -rf build
