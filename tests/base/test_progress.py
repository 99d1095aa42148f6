from distilbert_jax.base.progress import progress


def test_a_log_has_a_line_now_and_then(monkeypatch, capfd):
    monkeypatch.setattr("distilbert_jax.base.progress._LOG_SECONDS", 0.0)
    with progress("reading", 8) as done:
        done(2)
        done(8)
    with progress("reading", None) as done:
        done(1234)
    assert [line.split(" after")[0] for line in capfd.readouterr().err.splitlines()] == [
        "reading: 25%",
        "reading: 100%",
        "reading: 1,234",
    ]


def test_what_has_no_end_has_no_bar_that_would_take_stdout(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    with progress("reading", None) as done:
        done(1)
        print("a result")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("a result\n", "")
    with progress("reading", 1):
        pass
    assert "reading" in capfd.readouterr().err
