"""Every algorithm of alignment as a pure function of tensors: `from qwill.align import losses`.

What a token counts is in `aggregation`, what a reward becomes in `advantages`.
"""

from qwill.align.advantages import gae, group_advantages, leave_one_out, reinforce_plus_plus, token_rewards, whiten
from qwill.align.aggregation import sequence_means, sequence_of_token, sequence_sums, token_weights
from qwill.align.distillation_losses import generalised_jsd
from qwill.align.kl import kl_term, kl_value
from qwill.align.policy_losses import (
    PolicyLoss,
    cispo,
    clipped,
    clipped_value,
    gspo,
    gspo_token,
    truncated_importance,
)  # fmt: skip
from qwill.align.preference_losses import (
    bradley_terry,
    dpo,
    dpo_exo,
    dpo_hinge,
    dpo_normalised,
    dpo_robust,
    ipo,
    kto,
    kto_reference_point,
    orpo_odds,
    right_or_wrong,
    simpo,
)  # fmt: skip

__all__ = [
    "PolicyLoss", "bradley_terry", "cispo", "clipped", "clipped_value", "dpo", "dpo_exo", "dpo_hinge", "dpo_normalised",
    "dpo_robust", "gae", "generalised_jsd", "group_advantages", "gspo", "gspo_token", "ipo", "kl_term", "kl_value",
    "kto", "kto_reference_point", "leave_one_out", "orpo_odds", "reinforce_plus_plus", "right_or_wrong",
    "sequence_means", "sequence_of_token", "sequence_sums", "simpo", "token_rewards", "token_weights",
    "truncated_importance", "whiten",
]  # fmt: skip
