"""`python -m foreseer.bench.gpu`: what `foreseer bench gpu` does, where no script is installed."""

import typer

from foreseer.bench.commands import gpu

if __name__ == "__main__":
    typer.run(gpu)
