"""The description of the machine that results carry."""

import pytest

from cascadebert import environment


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ({"flags": "fpu avx avx2 fma"}, ("AVX2",)),
        (
            {"flags": "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8"},
            ("AVX2", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AMX int8", "AMX BF16"),
        ),
        (
            {"Features": "fp asimd asimddp sve bf16 i8mm"},
            ("NEON", "NEON dot product", "NEON int8", "NEON BF16", "SVE"),
        ),
        ({}, ()),
    ],
)
def test_instruction_sets_are_those_of_the_processor(monkeypatch, lines, expected):
    monkeypatch.setattr(
        environment, "_system_values", lambda file, key: [lines[key]] * 2 if key in lines else []
    )
    assert environment.instruction_sets() == expected
