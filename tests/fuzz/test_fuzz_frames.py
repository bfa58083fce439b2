from tests.fuzz.frames import run


def test_a_bounded_run_of_the_fuzz_target():
    assert run(seed=7, rounds=1500) == 1500
