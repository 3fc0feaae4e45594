"""Generated files end in the right table or in one message; 2,000 of them: `make files`."""

import pytest

from generated import draw
from generated_run import Runner


@pytest.fixture(scope="module")
def runner(saved, tmp_path_factory):
    return Runner(saved, tmp_path_factory.mktemp("temporary"))


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_a_file_ends_in_the_right_table_or_in_one_message(runner, tmp_path, start):
    run_all(runner, tmp_path, range(start, start + 20))


@pytest.mark.slow
def test_many_files_end_in_the_right_table_or_in_one_message(runner, tmp_path):
    run_all(runner, tmp_path, range(10_000, 10_300))


def run_all(runner, root, seeds):
    for seed in seeds:
        folder = root / str(seed)
        folder.mkdir()
        case = draw(seed)
        try:
            runner.run(case, folder)
        except Exception as error:
            pytest.fail(f"seed {seed}, {case.kind}: {error}")
