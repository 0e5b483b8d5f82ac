"""`python -m tiercel.cli` is `infer-cli`."""

from tiercel.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
