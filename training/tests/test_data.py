"""Packing, masks and the position of a stream."""

import numpy as np
import torch

from data import Documents, Piece, RowStream, assembled, packed, pieces


def documents(lengths: list[int], prompt_lens: list[int]) -> Documents:
    """Document i holds the tokens 100 i, 100 i + 1, ..."""
    encoded = [np.arange(100 * i, 100 * i + n, dtype=np.uint16) for i, n in enumerate(lengths)]
    return Documents.collect(encoded, prompt_lens, [0] * len(lengths))


def test_texts_go_on_in_another_piece_and_pairs_are_cut() -> None:
    # A text of 11, a pair of 12 with a prompt of 3, a pair whose prompt of 5 fills a row, a text of 6: rows of 5.
    some = documents([11, 12, 9, 6], [0, 3, 5, 0])
    assert list(pieces(some, [0, 1, 2, 3], 5)) == [Piece(0, 0, 5), Piece(0, 5, 10), Piece(1, 0, 5), Piece(3, 0, 5)]


def test_packing_places_every_piece_once_and_overfills_no_row() -> None:
    random = np.random.default_rng(7)
    wanted = [Piece(i, 0, int(length)) for i, length in enumerate(random.integers(2, 65, size=2000))]
    rows = packed(iter(wanted), 64)
    assert sorted((piece for row in rows for piece in row), key=lambda piece: piece.document) == wanted
    assert max(sum(piece.stop for piece in row) for row in rows) <= 64
    n_tokens = sum(piece.stop for piece in wanted)
    assert n_tokens / (64 * len(rows)) > 0.9


def test_weights_count_responses_and_texts_but_no_first_token_and_no_padding() -> None:
    some = documents([4, 3], [2, 0])
    batch = assembled(some, [[Piece(0, 0, 4), Piece(1, 0, 3)]], 8, prompt_weight=0.0)
    assert batch.tokens.tolist() == [[0, 1, 2, 3, 100, 101, 102, 0, 0]]
    # Targets 1..: token 1 is prompt, 2 and 3 are response, 100 opens a document, 101 and 102 are text.
    assert batch.weights.tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]
    assert batch.segments.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
    half = assembled(some, [[Piece(0, 0, 4)]], 4, prompt_weight=0.5)
    assert half.weights.tolist() == [[0.5, 1, 1, 0]]


def test_a_stream_goes_on_from_its_position_across_epochs() -> None:
    some = documents([9] * 20, [0] * 20)
    whole, resumed = (RowStream(some, 8, 0.0, seed=3) for _ in range(2))
    expected = [whole.next_rows(7).tokens for _ in range(6)]
    for _ in range(3):
        resumed.next_rows(7)
    # 3 * 7 of 20 rows per epoch: one row into the second epoch.
    assert resumed.position == (1, 1)
    again = RowStream(some, 8, 0.0, seed=3)
    again.seek(*resumed.position)
    assert all(torch.equal(again.next_rows(7).tokens, tokens) for tokens in expected[3:])


def test_every_epoch_has_all_rows_in_an_order_of_its_own() -> None:
    stream = RowStream(documents([9] * 20, [0] * 20), 8, 0.0, seed=3)
    first, second = (stream.next_rows(20).tokens[:, 0].tolist() for _ in range(2))
    assert sorted(first) == sorted(second)
    assert first != second


def test_in_a_share_of_the_rows_documents_see_each_other() -> None:
    some = documents([4] * 20, [0] * 20)
    apart, mixed = (RowStream(some, 8, 0.0, seed=3, talk_share=share).next_rows(4) for share in (0.0, 0.5))
    assert apart.segments.max(1).values.tolist() == [2, 2, 2, 2]
    assert mixed.segments.max(1).values.tolist() == [1, 1, 2, 2]
    assert (mixed.segments == 0).equal(apart.segments == 0)
    assert mixed.tokens.equal(apart.tokens) and mixed.weights.equal(apart.weights)
