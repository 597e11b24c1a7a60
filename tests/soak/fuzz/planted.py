"""What pickles in the fuzzer's checkpoints want to run. Nothing else imports or calls it."""


def run() -> None:
    """Nothing: that it is called at all is the fault."""
