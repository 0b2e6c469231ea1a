from typing import Any, final

import numpy as np
import numpy.typing as npt

from dsde.views import Batch, Column, Feedback

_Floats = npt.NDArray[np.float32]

@final
class Plan:
    """One length per sequence of the batch that was planned, in its order."""

    @property
    def lens(self) -> npt.NDArray[np.uint32]:
        """Tokens to draft, at most the sequence's limit; 0 is plain decoding. Of a tree: levels."""
    @property
    def widths(self) -> npt.NDArray[np.uint32]:
        """Nodes kept per level: 1 drafts a chain, more a token tree. Only `ddd` and `adaserve` plan trees."""
    @property
    def is_settled(self) -> npt.NDArray[np.bool_]:
        """Whether the length comes from the policy's rule rather than from its calibration."""
    @property
    def reasons(self) -> list[str]:
        """A word that says why the length was planned."""

@final
class Policy:
    """A policy and what it remembers of the sequences that it has seen.

    It is a pure state machine: the same questions in the same order get the same answers. One lock guards it, so threads may
    share it, though the order of a step must be kept. A policy that fails raises `RuntimeError` then and from then on.
    """

    def __new__(cls, specification: str = "dsde") -> Policy:
        """Builds a policy from `NAME[:key=value,...]`, as on the command line of `dsde`.

        Raises `ValueError` for an unknown name or key or a value out of range; the message says what is possible.
        """
    @property
    def name(self) -> str:
        """The specification, with every parameter that differs from its default and no other."""
    @property
    def reads_divergence(self) -> bool:
        """Whether it reads `Feedback.klds` and the columns beside it; may change from step to step."""
    @property
    def reads_draft_shape(self) -> bool:
        """Whether it reads entropies and largest probabilities of the draft; may change from step to step."""
    def plan(self, batch: Batch) -> Plan:
        """Begins a step and plans a length for every sequence; nothing may have been drafted yet."""
    def keep_drafting(self, seq: int, index: int, entropy: float, top_prob: float, path_log_prob: float) -> bool:
        """Whether a sequence goes on drafting after the position just drafted, which itself stays in the proposal.

        Ask only while the planned length is not reached.

        * `index`: 0 for the first drafted token.
        * `entropy`, `top_prob`: of the draft's distribution at this position (`draft_shape`); 0 and 1 if nobody asked for them.
        * `path_log_prob`: sum of `ln(top_prob)` up to here.
        """
    def takes_foreseen(self, seq: int) -> bool:
        """Whether a sequence that can choose drafts what was foreseen; else the draft model drafts. Asked behind `plan`."""
    def trim(
        self, batch: Batch, drafted: Column, entropies: Column | None = None, top_probs: Column | None = None
    ) -> npt.NDArray[np.uint32]:
        """Cuts drafted lengths to what is worth verifying.

        * `batch`: the one that was planned.
        * `drafted`: tokens that were drafted, per sequence of `batch`.
        * `entropies`, `top_probs`: of every drafted position, chains one behind the other. Left out: 0 and 1.
        * Returns lengths, none above `drafted`.
        """
    def observe(self, feedback: Feedback) -> None:
        """Learns what the step achieved and what it cost."""
    def learn_costs(self, feedback: Feedback) -> None:
        """Learns what a made-up step cost, of which only rows and times mean anything. Policies that know no costs ignore it."""
    def explain(self, seq: int) -> dict[str, float]:
        """The named numbers behind the last plan of a sequence (divergence, survival, cap, costs); for traces."""
    def forget(self, seq: int) -> None:
        """Drops what is remembered of a sequence that has ended."""

def policies() -> list[tuple[str, str, str]]: ...
def compare(
    target: npt.NDArray[Any],
    target_rows: npt.ArrayLike,
    target_temperatures: npt.ArrayLike,
    draft: npt.NDArray[Any],
    draft_rows: npt.ArrayLike,
    draft_temperatures: npt.ArrayLike,
) -> tuple[_Floats, _Floats, _Floats, _Floats]: ...
def shape(logits: npt.NDArray[Any], temperatures: npt.ArrayLike) -> tuple[_Floats, _Floats]: ...
