"""`python -m foreseer.bench.gpu`: what `foreseer bench gpu` does, where no script is installed."""

from foreseer.bench.commands import bench

if __name__ == "__main__":
    import sys

    bench(["gpu", *sys.argv[1:]])
