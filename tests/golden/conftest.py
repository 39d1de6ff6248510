"""make_golden.py runs in another environment: pytest shall not import it in search of doctests."""

collect_ignore = ["make_golden.py"]
