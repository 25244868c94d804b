"""The laws that every token mixer obeys, ours and anyone's.

1. values: shape, dtype, device kept; finite; deterministic.
2. padding: never changes a real token.
3. packing: documents in one row are as if apart.
4. causality: outputs before a changed token stay.
5. streaming: chunks with a state equal one call.
6. reach: tokens that influence an output are those that the mixer says.
7. equivariance: permutations, rotations and translations, where claimed.
8. gradients: there, finite, and those of the function.
9. cost: grows in the length as claimed.
10. storage: saved, copied, compiled or in bfloat16, it is the same mixer.
"""

from tokenmix.laws.check import LAWS, Law, Report, Verdict, check_mixer
from tokenmix.laws.trial import LawBroken

__all__ = ["LAWS", "Law", "LawBroken", "Report", "Verdict", "check_mixer"]
